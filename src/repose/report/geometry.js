// Lattices and what is drawn of a crystal. Vectors are rows: cartesian = fractional @ cell.

const FACE = 0.3; // Å: atoms nearer to a face are drawn on the opposite one, too
const BOND = 1.15; // longest bond over the sum of covalent radii
const MAX_BONDED = 1500; // drawn atoms; crystals with more have no bonds

const range = (n) => Array.from({ length: n }, (_, k) => k);
const largest = (values) => values.reduce((u, v) => Math.max(u, v), 0);
const dot = (u, v) => u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
const minus = (u, v) => [u[0] - v[0], u[1] - v[1], u[2] - v[2]];
const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
const norm = (u) => Math.sqrt(dot(u, u));
const unit = (u) => u.map((x) => x / norm(u));
const times = (v, m) => [0, 1, 2].map((k) => v[0] * m[0][k] + v[1] * m[1][k] + v[2] * m[2][k]); // v @ m
const apply = (m, v) => m.map((row) => dot(row, v)); // m @ v
const product = (a, b) => a.map((row) => times(row, b));
const triples = (flat) => range(flat.length / 3).map((k) => flat.slice(3 * k, 3 * k + 3).map((x) => x / 1000));

// Columns are the reciprocal vectors.
function inverse([a, b, c]) {
  const volume = dot(a, cross(b, c));
  const columns = [cross(b, c), cross(c, a), cross(a, b)];
  return range(3).map((k) => columns.map((column) => column[k] / volume));
}

// Lengths in Å, angles in degrees and volume of a cell, by name.
function parameters([a, b, c]) {
  const angle = (u, v) => (Math.acos(Math.max(-1, Math.min(1, dot(u, v) / norm(u) / norm(v)))) * 180) / Math.PI;
  return { "a, Å": norm(a), "b, Å": norm(b), "c, Å": norm(c),
    "α, °": angle(b, c), "β, °": angle(a, c), "γ, °": angle(a, b),
    "volume, Å³": Math.abs(dot(a, cross(b, c))) };
}

// The input, if it is known, and the output: cells and positions in Å.
function states(geometry) {
  const after = { cell: triples(geometry.cell), positions: triples(geometry.positions) };
  if (!geometry.input_cell) return [after];
  const change = triples(geometry.input_minus_output);
  const positions = after.positions.map((p, k) => [0, 1, 2].map((x) => p[x] + change[k][x]));
  return [{ cell: triples(geometry.input_cell), positions }, after];
}

// Scenes to draw, one for each state, with the same atoms: wrapped into the cell as in the first state, and periodic images
// of those on faces. Points are relative to the centre of the cell.
function scenes(geometry, elements) {
  const all = states(geometry), pbc = geometry.pbc ?? [1, 1, 1];
  for (const state of all) {
    const inverted = inverse(state.cell);
    state.fractional = state.positions.map((p) => times(p, inverted));
  }
  const tolerance = all[0].cell.map((vector) => FACE / norm(vector));
  const shown = []; // pairs of an atom and its shift
  geometry.numbers.forEach((_, atom) => {
    const shifts = [0, 1, 2].map((x) => {
      if (!pbc[x]) return [0];
      const home = -Math.floor(all[0].fractional[atom][x] + tolerance[x]);
      const at = (face) => all.some((s) => Math.abs(s.fractional[atom][x] + home - face) < tolerance[x]);
      return [home, ...(at(0) ? [home + 1] : []), ...(at(1) ? [home - 1] : [])];
    });
    for (const i of shifts[0]) for (const j of shifts[1]) for (const k of shifts[2]) shown.push([atom, [i, j, k]]);
  });
  const metals = geometry.numbers.every((z) => elements[z].metal);
  return all.map((state) => {
    const place = (fractional) => times(fractional.map((x) => x - 0.5), state.cell);
    const points = shown.map(([atom, shift]) => place(state.fractional[atom].map((x, k) => x + shift[k])));
    const corners = range(8).map((k) => place([k & 1, (k >> 1) & 1, k >> 2]));
    const edges = range(8).flatMap((k) => [1, 2, 4].filter((bit) => !(k & bit)).map((bit) => [corners[k], corners[k + bit]]));
    const extent = largest([...corners, ...points].map(norm));
    const atoms = shown.map(([atom], k) => ({ atom, point: points[k], element: elements[geometry.numbers[atom]] }));
    return { state, atoms, edges, corners, extent, bonds: atoms.length > MAX_BONDED ? [] : bonds(atoms, metals) };
  });
}

// Pairs of drawn atoms that are near to each other; between metals only in crystals of metals.
function bonds(atoms, metals) {
  const found = [];
  atoms.forEach((one, i) => {
    for (let j = 0; j < i; j++) {
      const other = atoms[j];
      if (!metals && one.element.metal && other.element.metal) continue;
      const longest = BOND * (one.element.radius + other.element.radius), apart = minus(one.point, other.point);
      if (Math.abs(apart[0]) < longest && norm(apart) < longest) found.push([one, other]);
    }
  });
  return found;
}

// Displacements of atoms without the deformation of the cell, in Å.
function displacements([before, after]) {
  return before.state.fractional.map((f, k) => times(minus(after.state.fractional[k], f), after.state.cell));
}

// Rotation that turns the lattice vector c up and a to the right, seen slightly from above and from the side.
function standardView([a, , c]) {
  const up = unit(c), right = unit(minus(a, up.map((x) => x * dot(a, up))));
  return product(turned(-0.3, 0.22), [right, up, cross(right, up)]);
}

// Rotation by angles about the vertical and the horizontal axis of the screen.
function turned(vertical, horizontal) {
  const [c, s, d, t] = [Math.cos(vertical), Math.sin(vertical), Math.cos(horizontal), Math.sin(horizontal)];
  return product([[1, 0, 0], [0, d, -t], [0, t, d]], [[c, 0, s], [0, 1, 0], [-s, 0, c]]);
}
