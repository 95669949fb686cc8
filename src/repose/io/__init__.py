"""Reading and writing crystals: files, formats, and the conversion from and to ASE and pymatgen."""
