// Histograms as inline SVG.

const BINS = 30;
const TAIL = 0.005; // share of values at either end that share the first and last bin

function svg(name, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

// Linear between values.
function quantile(sorted, share) {
  const place = share * (sorted.length - 1), k = Math.floor(place);
  return sorted[k] + (place - k) * ((sorted[k + 1] ?? sorted[k]) - sorted[k]);
}

// A histogram of one column: pale for all crystals, strong for those that the filters leave.
function histogram(column, crystals) {
  const sorted = crystals.map((c) => c[column.key]).filter((v) => v !== undefined).sort((a, b) => a - b);
  let low = quantile(sorted, TAIL), high = quantile(sorted, 1 - TAIL);
  if (column.fromZero) low = 0;
  if (high - low < 1e-9) [low, high] = [low - (column.fromZero ? 0 : 0.5), low + (column.fromZero ? high || 1 : 0.5)];
  const bin = (value) => Math.min(BINS - 1, Math.max(0, Math.floor(((value - low) / (high - low)) * BINS)));
  const count = (rows) => {
    const counts = new Array(BINS).fill(0);
    for (const row of rows) if (row[column.key] !== undefined) counts[bin(row[column.key])]++;
    return counts;
  };
  const figure = document.createElement("figure");
  const median = column.show(quantile(sorted, 0.5)), most = column.show(quantile(sorted, 0.9));
  const words = `median ${median}, 90 % below ${most}`;
  const picture = svg("svg", { viewBox: "0 0 260 120", role: "img",
    "aria-label": `Histogram of ${column.label}: ${sorted.length} crystals, ${words}` }, figure);
  const all = count(crystals), top = Math.max(...all), width = 250 / BINS;
  const bars = (kind) => all.map((_, k) => svg("rect", { class: kind, x: 5 + k * width, width: width - 1 }, picture));
  const draw = (rects, counts) => rects.forEach((rect, k) => {
    const height = counts[k] && Math.max(1, (95 * counts[k]) / top);
    rect.setAttribute("y", 100 - height);
    rect.setAttribute("height", height);
  });
  draw(bars("all"), all);
  const strong = bars("some");
  svg("line", { x1: 5, x2: 255, y1: 100.5, y2: 100.5 }, picture);
  for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
    const text = svg("text", { x: 5 + 250 * share, y: 114, "text-anchor": anchor }, picture);
    const beyond = (share === 0 && sorted[0] < low) ? "≤ " : (share === 1 && sorted.at(-1) > high) ? "≥ " : "";
    text.textContent = beyond + column.show(low + share * (high - low));
  }
  const caption = document.createElement("figcaption");
  caption.textContent = column.label;
  const small = document.createElement("small");
  small.textContent = words;
  caption.append(small);
  figure.append(caption);
  return { figure, update: (rows) => draw(strong, count(rows)) };
}
