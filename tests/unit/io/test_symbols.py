"""Elements of sites: whole symbols, not their first letters."""

import pytest
from pymatgen.core import Element

from repose.errors import InvalidCrystalError
from repose.io.symbols import bears_hydrogen, site_element

ELEMENTS = [element.symbol for element in Element if element.Z <= 103 and len(element.symbol) <= 2]
CHARGES = ["", "3+", "2-", "+3", "-2", "+", "-", "1+", "0+", "2.5+", "(3+)", "(III)", "1", "12"]
SUFFIXES = ["", "1", "12", "1A", "12B", "1_2", "(1)", "(1A)", "1'", "1*", "2+", "1a", "_1", "#1", "1-2"]


@pytest.mark.parametrize("symbol", ELEMENTS)
def test_every_element_in_every_spelling(symbol):
    for charge in CHARGES:
        assert site_element("X1", symbol + charge) == symbol
    assert site_element("X1", symbol.upper()) == symbol
    assert site_element("X1", symbol.lower()) == symbol
    for suffix in SUFFIXES:
        assert site_element(symbol + suffix, "") == symbol
    if symbol.upper() not in ("HO", "OS", "NO"):
        assert site_element(symbol.upper() + "1", "") == symbol


@pytest.mark.parametrize(
    ("kind", "symbol"),
    [
        ("D", "H"), ("T", "H"), ("D1+", "H"), ("2H", "H"), ("57Fe", "Fe"), ("OW", "O"), ("Ow", "O"),
        ("OH", "O"), ("Wat", "O"), ("H2O", "O"), ("Cval", "C"), ("Fe3+,spin=5", "Fe"), ("CO", "Co"),
        ("Mn4+spin=-3", "Mn"),
    ],
)  # fmt: skip
def test_other_types(kind, symbol):
    assert site_element("X1", kind) == symbol


@pytest.mark.parametrize(
    ("label", "symbol"),
    [
        ("D1", "H"), ("D12A", "H"), ("OW1", "O"), ("Ow", "O"), ("OH2", "O"), ("Wat1", "O"), ("HW1", "H"),
        ("SiT1", "Si"), ("AlT1o", "Al"), ("CaM2", "Ca"), ("KA", "K"), ("OA1", "O"), ("OB2", "O"),
        ("HN1", "H"), ("H1N", "H"), ("O1W", "O"), ("*Ca1", "Ca"), ("FE1", "Fe"), ("SI2", "Si"), ("PB", "Pb"),
        ("Fe3+", "Fe"),
    ],
)  # fmt: skip
def test_other_labels(label, symbol):
    assert site_element(label, "") == symbol


@pytest.mark.parametrize(
    "token",
    ["Du", "Du1", "Vac", "Vac1", "Va", "Va1", "vac1", "Cat", "Cat1", "An1", "M", "M1", "Q1", "X", "X1", "Lp1",
     "A1", "Cg1", "R1", "1", "*", "Vacancy", "J2", "Zz1", "T1", "Xx", "unknown", "Cation1", "Hydrogen"],
)  # fmt: skip
def test_names_that_are_no_element(token):
    for label, kind in ((token, ""), ("S1", token)):
        with pytest.raises(InvalidCrystalError, match=f"site '.*' is of no known element .'.*{token[1:]}'"):
            site_element(label, kind)


@pytest.mark.parametrize("label", ["T", "T2", "Cn1", "Og1", "Ts1"])
def test_names_that_are_an_element_only_as_type(label):
    with pytest.raises(InvalidCrystalError, match=f"'{label}' is of no known element"):
        site_element(label, "")
    assert site_element(label, "Si") == "Si"


@pytest.mark.parametrize(
    "token",
    ["Nb/Zr", "Nb0.8Zr0.2", "Nb,Zr", "Fe0.5", "NbZr", "FeMn", "Nb+Zr", "Nb:Zr", "(Fe,Mn)", "Nb.8Zr.2", "SiAl",
     "Fe3+/Mn3+", "La;Sr", "Na&K", "Fe/Vac", "SiO2", "Ni0.97O", "Fe-Mn", "NaK"],
)  # fmt: skip
def test_mixtures(token):
    for label, kind in ((token, ""), ("M1", token)):
        with pytest.raises(InvalidCrystalError, match="partial occupancy: site"):
            site_element(label, kind)


@pytest.mark.parametrize("label", ["HO1", "OS2", "NO3"])
def test_capitals_that_may_be_two_things(label):
    with pytest.raises(InvalidCrystalError, match=f"'{label}' may be .* or {label[0]}; give"):
        site_element(label, "")
    assert site_element(label, label[0]) == label[0]


def test_groups_with_hydrogen():
    assert all(bears_hydrogen(label, "") for label in ("OH", "OH1", "Wat", "WAT2", "H2O", "H2O1"))
    assert not any(bears_hydrogen(label, "") for label in ("OW1", "O1", "Oh1a"[:1], "H1", "Os1", "W1"))
    assert not bears_hydrogen("OH1", "O")  # a label beside a type is only a name
