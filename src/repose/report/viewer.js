// Drawings of a crystal before and after, which turn together: shaded spheres, drawn from back to front.

const SIZE = 0.42; // radius of a sphere over the covalent radius
const STICK = 0.11; // width of a bond, Å
const SEGMENTS = 12; // of an edge of the cell, so that atoms can hide parts of it
const ARROW = 1.2; // length of the longest arrow, Å, unless the displacement is longer
const LABEL = 1; // Å from a corner to the name of a lattice vector
const MOVED = 0.005; // Å: crystals whose atoms move less have no arrows
const SCALE = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];

const channels = (colour) => [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16));
const mix = (one, other, share) => {
  const v = channels(other);
  return "#" + channels(one).map((u, k) => Math.round(u + share * (v[k] - u)).toString(16).padStart(2, "0")).join("");
};

// Colour of a share from 0 to 1.
function onScale(share) {
  const x = Math.max(0, Math.min(1, share)) * (SCALE.length - 1), k = Math.min(SCALE.length - 2, Math.floor(x));
  return mix(SCALE[k], SCALE[k + 1], x - k);
}

class Viewer {
  // elements: appearance by atomic number.
  constructor(elements) {
    this.elements = elements;
    this.canvases = [...document.querySelectorAll("#views canvas")];
    this.options = Object.fromEntries(["colours", "bonds", "arrows"].map((id) => [id, document.getElementById(id)]));
    this.sprites = new Map();
    for (const canvas of this.canvases) this.listen(canvas);
    for (const option of Object.values(this.options)) option.onchange = () => this.recolour();
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.redraw());
    new ResizeObserver(() => this.redraw()).observe(document.getElementById("views"));
  }

  listen(canvas) {
    canvas.onpointerdown = (event) => canvas.setPointerCapture(event.pointerId);
    canvas.onpointermove = (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) this.turn(event.movementX / 120, event.movementY / 120);
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(event.deltaY < 0 ? 1.1 : 1 / 1.1);
    }, { passive: false });
    canvas.onkeydown = (event) => {
      const turns = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] };
      if (event.key in turns) this.turn(...turns[event.key]);
      else if ("+=".includes(event.key)) this.zoomBy(1.1);
      else if (event.key === "-") this.zoomBy(1 / 1.1);
      else if (event.key === "0") this.reset();
      else return;
      event.preventDefault();
    };
  }

  show(crystal) {
    this.geometry = crystal.geometry;
    this.scenes = scenes(crystal.geometry, this.elements);
    this.extent = Math.max(...this.scenes.map((s) => s.extent)) + LABEL;
    const both = this.scenes.length === 2;
    this.canvases[0].parentElement.hidden = !both;
    this.drawn = both ? [[this.canvases[0], this.scenes[0]], [this.canvases[1], this.scenes[1]]]
      : [[this.canvases[1], this.scenes[0]]];
    const known = this.geometry.bounds !== undefined;
    this.options.colours.parentElement.hidden = !known;
    this.arrows = both ? displacements(this.scenes) : [];
    const longest = largest(this.arrows.map(norm));
    this.factor = longest > MOVED ? Math.max(1, ARROW / longest) : 0;
    this.options.arrows.parentElement.hidden = !this.factor;
    document.getElementById("factor").textContent = this.factor ? `(× ${this.factor.toPrecision(2)})` : "";
    for (const [canvas] of this.drawn) {
      const which = canvas === this.canvases[0] ? "before" : "after";
      const label = `${crystal.formula} ${which}, ${this.geometry.numbers.length} atoms; arrow keys turn it`;
      canvas.setAttribute("aria-label", label);
    }
    this.recolour();
    this.reset();
  }

  reset() {
    this.rotation = standardView(this.scenes[0].state.cell);
    this.zoom = 1;
    this.redraw();
  }

  turn(vertical, horizontal) {
    this.rotation = product(turned(vertical, horizontal), this.rotation);
    this.redraw();
  }

  zoomBy(factor) {
    this.zoom = Math.max(0.3, Math.min(10, this.zoom * factor));
    this.redraw();
  }

  // Set colours of atoms, and explain them.
  recolour() {
    const { bounds, numbers } = this.geometry, legend = document.getElementById("legend");
    legend.replaceChildren();
    if (bounds && this.options.colours.value === "bound") {
      const low = bounds.reduce((u, v) => Math.min(u, v)), high = Math.max(largest(bounds), low + 1);
      this.colours = bounds.map((bound) => onScale((bound - low) / (high - low)));
      add(legend, "span", `bound ${(low / 1000).toFixed(3)} Å`);
      add(legend, "b").style.background = `linear-gradient(to right, ${SCALE})`;
      add(legend, "span", `${(high / 1000).toFixed(3)} Å`);
    } else {
      this.colours = numbers.map((z) => this.elements[z].colour);
      for (const z of new Set(numbers)) {
        const name = add(legend, "span");
        add(name, "i").style.background = this.elements[z].colour;
        name.append(this.elements[z].symbol);
      }
    }
    this.redraw();
  }

  redraw() {
    if (!this.scenes || this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.drawn.forEach(([canvas, scene]) => this.draw(canvas, scene));
    });
  }

  draw(canvas, scene) {
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((x) => Math.round(x * ratio));
    if (!width || !height || !this.rotation) return;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const [line, ink] = ["--soft", "--front"].map((name) => style.getPropertyValue(name).trim());
    const scale = (this.zoom * Math.min(width, height)) / 2 / this.extent;
    const flat = (point) => {
      const [x, y, z] = apply(this.rotation, point);
      return [width / 2 + scale * x, height / 2 - scale * y, z];
    };
    const items = []; // pairs of a depth and a function
    const stroke = (from, to, colour, thickness) => items.push([(from[2] + to[2]) / 2, () => {
      context.strokeStyle = colour;
      context.lineWidth = thickness;
      context.beginPath();
      context.moveTo(from[0], from[1]);
      context.lineTo(to[0], to[1]);
      context.stroke();
    }]);
    const between = (u, v, share) => u.map((x, k) => x + share * (v[k] - x));
    for (const [from, to] of scene.edges.map((edge) => edge.map(flat))) {
      const at = (k) => between(from, to, k / SEGMENTS);
      for (let k = 0; k < SEGMENTS; k++) stroke(at(k), at(k + 1), line, ratio);
    }
    for (const pair of this.options.bonds.checked ? scene.bonds : []) {
      const [from, to] = pair.map(({ point }) => flat(point)), middle = between(from, to, 0.5);
      stroke(from, middle, mix(this.colours[pair[0].atom], "#555555", 0.25), STICK * scale);
      stroke(to, middle, mix(this.colours[pair[1].atom], "#555555", 0.25), STICK * scale);
    }
    for (const { atom, point, element } of scene.atoms) {
      const at = flat(point), radius = SIZE * element.radius;
      items.push([at[2], () => this.sphere(context, at, radius * scale, this.colours[atom])]);
      if (this.factor && this.options.arrows.checked && scene === this.scenes[0]) {
        const move = this.arrows[atom].map((x) => this.factor * x);
        if (norm(move) > 0.15) this.arrow(items, context, at, flat(point.map((x, k) => x + move[k])), radius, ink, ratio);
      }
    }
    context.clearRect(0, 0, width, height);
    context.lineCap = "round";
    items.sort((a, b) => a[0] - b[0]).forEach(([, paint]) => paint());
    context.fillStyle = ink;
    context.font = `${13 * ratio}px system-ui, sans-serif`;
    [1, 2, 4].forEach((corner, k) => {
      const [x, y] = flat(between(scene.corners[0], scene.corners[corner], 1 + LABEL / norm(scene.state.cell[k])));
      context.fillText("abc"[k], x - 4 * ratio, y + 4 * ratio);
    });
  }

  arrow(items, context, from, to, radius, colour, ratio) {
    items.push([Math.max(from[2], to[2]) + radius, () => {
      const [x, y] = [to[0] - from[0], to[1] - from[1]], length = Math.hypot(x, y), head = Math.min(7 * ratio, length / 2);
      const [u, v] = [(x / length) * head, (y / length) * head];
      context.strokeStyle = context.fillStyle = colour;
      context.lineWidth = 1.6 * ratio;
      context.beginPath();
      context.moveTo(from[0], from[1]);
      context.lineTo(to[0] - u / 2, to[1] - v / 2);
      context.stroke();
      if (length < 2) return;
      context.beginPath();
      context.moveTo(to[0], to[1]);
      context.lineTo(to[0] - u - v / 2, to[1] - v + u / 2);
      context.lineTo(to[0] - u + v / 2, to[1] - v - u / 2);
      context.fill();
    }]);
  }

  // A shaded sphere; it is painted once for each colour and size.
  sphere(context, [x, y], radius, colour) {
    const r = Math.max(1, Math.round(radius)), key = colour + r;
    let sprite = this.sprites.get(key);
    if (!sprite) {
      if (this.sprites.size > 2000) this.sprites.clear();
      sprite = document.createElement("canvas");
      sprite.width = sprite.height = 2 * r + 2;
      const paint = sprite.getContext("2d"), c = r + 1;
      const light = paint.createRadialGradient(c - 0.35 * r, c - 0.4 * r, 0.05 * r, c, c, r);
      light.addColorStop(0, mix(colour, "#ffffff", 0.75));
      light.addColorStop(0.45, colour);
      light.addColorStop(1, mix(colour, "#000000", 0.55));
      paint.fillStyle = light;
      paint.beginPath();
      paint.arc(c, c, r, 0, 2 * Math.PI);
      paint.fill();
      this.sprites.set(key, sprite);
    }
    context.drawImage(sprite, x - r - 1, y - r - 1);
  }
}
