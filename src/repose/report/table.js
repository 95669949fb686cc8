// Table of crystals: sorted by a column, filtered by text and status, shown in pages.

const PAGE = 100;
const fixed = (digits) => (v) => v.toFixed(digits);
const signed = (digits) => (v) => (v > 0 ? "+" : "") + v.toFixed(digits);
const roundedUp = (v) => (Math.ceil(v * 100 - 1e-6) / 100).toFixed(2);

// key: value of a crystal by which the column is sorted; show: text of a value; cell: text of a crystal, if it has more than
// the value; note: small text below; histogram: the column has one.
const COLUMNS = [
  { key: "index", label: "#", show: (v) => String(v + 1), number: true },
  { key: "source", label: "Source" },
  { key: "formula", label: "Formula" },
  { key: "atoms", label: "Atoms", show: String, number: true },
  { key: "status", label: "Status", note: (c) => c.reason },
  { key: "volume_change", label: "Volume change, %", show: signed(1), number: true, histogram: true },
  { key: "max_displacement", label: "Largest displacement, Å", show: fixed(3), number: true, histogram: true, fromZero: true },
  { key: "uncertainty", label: "Bound, ± Å", show: roundedUp, cell: (c) => (c.outside ? "! " : "") + roundedUp(c.uncertainty),
    number: true, histogram: true, fromZero: true },
  { key: "spacegroup_out", label: "Space group", cell: (c) => `${c.spacegroup_in ?? "?"} → ${c.spacegroup_out}`, number: true },
  { key: "steps", label: "Steps", show: (v) => v.toFixed(0), note: (c) => c.converged === false && "not converged", number: true,
    histogram: true, fromZero: true },
  { key: "energy", label: "Energy, eV/atom", show: fixed(4), number: true },
  { key: "gained", label: "Energy gained, eV/atom", show: fixed(4), number: true, histogram: true },
  { key: "seconds", label: "Seconds", show: (v) => v.toPrecision(2), number: true },
].map((column) => ({ show: (v) => v, ...column }));

const FILTERS = {
  all: () => true,
  relaxed: (c) => c.status === "relaxed",
  suspect: (c) => c.status === "suspect",
  refused: (c) => c.status === "refused",
  "out of distribution": (c) => c.outside !== undefined,
  "not converged": (c) => c.converged === false,
};

function add(parent, name, text, attributes = {}) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
  return node;
}

class Table {
  // crystals: objects with `index`; open(index, rows) shows a crystal; changed(rows) hears of new filters.
  constructor(crystals, open, changed) {
    this.crystals = crystals;
    this.changed = changed;
    this.columns = COLUMNS.filter(({ key }) => crystals.some((c) => c[key] !== undefined) || key === "source");
    this.column = this.columns[0];
    this.direction = 1;
    this.page = 0;
    this.body = document.querySelector("#scroll tbody");
    this.head = document.querySelector("#scroll thead tr");
    this.search = new Map(crystals.map((c) =>
      [c, [c.source, c.formula, c.reason, c.outside, c.calculator].join("\n").toLowerCase()]));
    for (const column of this.columns) {
      const cell = add(this.head, "th", undefined, { scope: "col", class: column.number ? "number" : "" });
      add(cell, "button", column.label, { type: "button" }).onclick = () => this.sort(column);
    }
    this.text = document.querySelector("#text");
    this.status = document.querySelector("#status");
    for (const [name, test] of Object.entries(FILTERS)) {
      const many = crystals.filter(test).length;
      if (many || name === "all") add(this.status, "option", `${name} (${many})`, { value: name });
    }
    this.text.oninput = this.status.onchange = () => this.filter();
    document.querySelector("#filters").onsubmit = (event) => event.preventDefault();
    document.querySelector("#back").onclick = () => this.turn(-1);
    document.querySelector("#next").onclick = () => this.turn(1);
    this.body.onclick = (event) => {
      const row = event.target.closest("tr");
      if (row && !String(getSelection())) open(Number(row.dataset.index));
    };
    this.filter();
  }

  sort(column) {
    this.direction = column === this.column ? -this.direction : 1;
    this.column = column;
    this.filter();
  }

  filter() {
    const words = this.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const test = FILTERS[this.status.value];
    this.rows = this.crystals.filter((c) => test(c) && words.every((word) => this.search.get(c).includes(word)));
    const { key, number } = this.column, collator = new Intl.Collator("en", { numeric: true });
    const compare = number ? (a, b) => a - b : collator.compare;
    this.rows.sort((a, b) => {
      const [u, v] = [a[key], b[key]];
      if (u === undefined || v === undefined) return (u === undefined) - (v === undefined) || a.index - b.index;
      return this.direction * compare(u, v) || a.index - b.index;
    });
    this.page = 0;
    document.querySelector("#shown").textContent = `${this.rows.length} of ${this.crystals.length} crystals`;
    this.columns.forEach((column, k) => {
      const order = column !== this.column ? "none" : this.direction > 0 ? "ascending" : "descending";
      this.head.children[k].setAttribute("aria-sort", order);
    });
    this.draw();
    this.changed(this.rows);
  }

  turn(by) {
    this.page += by;
    this.draw();
  }

  draw() {
    const first = this.page * PAGE, last = Math.min(first + PAGE, this.rows.length);
    this.body.replaceChildren();
    for (const crystal of this.rows.slice(first, last)) this.drawRow(crystal);
    document.querySelector("#pages").hidden = this.rows.length <= PAGE;
    document.querySelector("#page").textContent = `${first + 1}–${last} of ${this.rows.length}`;
    document.querySelector("#back").disabled = this.page === 0;
    document.querySelector("#next").disabled = last === this.rows.length;
  }

  drawRow(crystal) {
    const row = add(this.body, "tr", undefined, { "data-index": crystal.index });
    for (const column of this.columns) {
      const value = crystal[column.key];
      const text = value === undefined ? "" : column.cell ? column.cell(crystal) : column.show(value);
      const cell = add(row, "td", undefined, { class: column.number ? "number" : "" });
      if (column.key === "source") add(cell, "button", text || `crystal ${crystal.index + 1}`, { type: "button" });
      else add(cell, "span", text, column.key === "status" ? { class: crystal.status } : {});
      const note = column.note?.(crystal);
      if (note) add(cell, "small", note);
    }
  }
}
