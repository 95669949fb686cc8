// The page: heading, histograms, table, and the dialog of a crystal.

const root = document.documentElement;
addEventListener("error", ({ message }) => {
  root.dataset.error = message;
  const place = document.getElementById("error");
  place.textContent = `This report cannot be shown: ${message}`;
  place.hidden = false;
});

const data = JSON.parse(document.getElementById("data").textContent);
data.crystals.forEach((crystal, index) => {
  crystal.index = index;
  if (crystal.energy !== undefined && crystal.energy_input !== undefined) crystal.gained = crystal.energy_input - crystal.energy;
});

function heading() {
  const { crystals } = data, many = (test) => crystals.filter(test).length, counts = document.getElementById("counts");
  document.getElementById("made").textContent = `${data.model ? `Model ${data.model}, ` : ""}Repose ${data.version}`;
  add(counts, "li", `${crystals.length} crystals`);
  for (const name of Object.keys(FILTERS).slice(1)) {
    const number = many(FILTERS[name]);
    if (number || name === "relaxed") add(counts, "li", `${number} ${name}`);
  }
  if (data.skipped) add(counts, "li", `${data.skipped} skipped: their output exists`);
  if (data.without_drawing) add(counts, "li", `${data.without_drawing} without a drawing, to keep this file small`);
  const words = [crystals.some((c) => c.uncertainty !== undefined)
    ? `The bound is on the mean error of the predicted coordinates: for crystals that resemble the calibration data, the error `
      + `is below it in ${data.level} of 100. ! marks crystals that are out of distribution; their bound may not hold.`
    : "There are no bounds on errors: the model is not calibrated."];
  if (crystals.some((c) => c.steps !== undefined)) {
    words.push("Steps and energies are those of the calculator that went on from the prediction, or from the input where that "
      + "has the lower energy; bounds are those of the prediction. Energy gained is the energy of the input minus that of the result.");
  }
  document.getElementById("meaning").textContent = words.join(" ");
}

function details(crystal) {
  const after = crystal.geometry && parameters(states(crystal.geometry).at(-1).cell);
  const before = crystal.geometry?.input_cell && parameters(triples(crystal.geometry.input_cell));
  const body = document.querySelector("#lattice tbody");
  body.replaceChildren();
  document.getElementById("lattice").hidden = !after;
  for (const name of Object.keys(after ?? {})) {
    const row = add(body, "tr");
    const show = (value, form) => add(row, "td", value === undefined ? "" : form(value), { class: "number" });
    add(row, "th", name, { scope: "row" });
    show(before?.[name], fixed(3));
    show(after[name], fixed(3));
    show(before && after[name] - before[name], signed(3));
  }
  const values = document.getElementById("values");
  const withUnit = (value, unit, form) => value !== undefined && `${form(value)} ${unit}`;
  values.replaceChildren();
  for (const [name, text] of [
    ["status", crystal.status],
    ["atoms", crystal.atoms],
    ["volume change", withUnit(crystal.volume_change, "%", signed(2))],
    ["largest displacement", withUnit(crystal.max_displacement, "Å", fixed(3))],
    ["bound on the mean error", withUnit(crystal.uncertainty, "Å", roundedUp)],
    ["space group", crystal.spacegroup_out && `${crystal.spacegroup_in ?? "?"} → ${crystal.spacegroup_out}`],
    ["calculator", crystal.calculator],
    ["steps", crystal.steps !== undefined && `${crystal.steps}, ${crystal.converged ? "converged" : "not converged"}`],
    ["started from", crystal.start && `the ${crystal.start}`],
    ["energy of the input", withUnit(crystal.energy_input, "eV/atom", fixed(4))],
    ["energy of the prediction", withUnit(crystal.energy_predicted, "eV/atom", fixed(4))],
    ["energy", withUnit(crystal.energy, "eV/atom", fixed(4))],
    ["time", withUnit(crystal.seconds, "s", (v) => v.toPrecision(2))],
  ]) {
    if (text === undefined || text === false) continue;
    add(values, "dt", name);
    add(values, "dd", text);
  }
}

heading();
const box = document.getElementById("crystal"), viewer = new Viewer(data.elements);
let shown = 0;

function open(index) {
  const crystal = data.crystals[index];
  if (!crystal) return;
  shown = index;
  const title = [crystal.formula, crystal.source].filter(Boolean).join(" · ");
  document.getElementById("name").textContent = title || `crystal ${index + 1}`;
  const outside = crystal.outside && `out of distribution, the bound may not hold: ${crystal.outside}`;
  const notes = [crystal.reason, outside, ...(crystal.remarks ?? [])].filter(Boolean);
  document.getElementById("notes").textContent = notes.join("\n");
  document.getElementById("notes").className = crystal.reason ? crystal.status : "";
  details(crystal);
  const place = table.rows.indexOf(crystal);
  document.getElementById("previous-crystal").disabled = place <= 0;
  document.getElementById("next-crystal").disabled = place < 0 || place === table.rows.length - 1;
  document.getElementById("drawing").hidden = !crystal.geometry;
  if (!box.open) box.showModal();
  if (crystal.geometry) {
    viewer.show(crystal);
    viewer.canvases[1].focus();
  }
}

const step = (by) => open(table.rows[table.rows.indexOf(data.crystals[shown]) + by].index);
document.getElementById("previous-crystal").onclick = () => step(-1);
document.getElementById("next-crystal").onclick = () => step(1);
document.getElementById("close").onclick = () => box.close();
document.getElementById("options").onsubmit = (event) => event.preventDefault();

const charts = COLUMNS.filter(({ key, histogram }) => histogram && data.crystals.some((c) => c[key] !== undefined))
  .map((column) => histogram(column, data.crystals));
document.getElementById("charts").append(...charts.map(({ figure }) => figure));
const table = new Table(data.crystals, open, (rows) => charts.forEach((chart) => chart.update(rows)));
const follow = () => location.hash.length > 1 && open(Number(location.hash.slice(1)) - 1);
addEventListener("hashchange", follow);
follow();
root.dataset.ready = String(data.crystals.length);
