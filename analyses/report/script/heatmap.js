// One heatmap: the last two axes of its numbers are its rows and columns; every other axis has a
// slider or a list above it. The cell under the mouse, or chosen with the arrow keys, is described
// in words below the figure.

/** Where a cell stands in the flat lists of numbers; `place` has one index per axis. */
function offsetOf(map, place) {
  return map.axes.reduce((offset, axis, i) => offset * axis.keys.length + place[i], 0);
}

/** The numbers of one cell. */
function cellOf(map, place) {
  const at = offsetOf(map, place);
  const cell = { n: map.cells.n[at], clear: map.cells.clear[at] === 1 };
  for (const name of ["value", "low", "high", "null_low", "null_high"]) {
    cell[name] = map.cells[name] ? map.cells[name][at] : null;
  }
  cell.reason = decoded(map.cells.reason, at);
  return cell;
}

/** The lines that describe a cell: where it is, its value, interval, null and number of prompts. */
function describe(map, place) {
  const cell = cellOf(map, place);
  const [row, column] = map.axes.slice(-2);
  const [i, j] = place.slice(-2);
  const above = map.axes.slice(0, -2).map((axis, k) => {
    return axis.slider ? `${axis.title} ${axis.labels[place[k]]}` : axis.labels[place[k]];
  });
  const lines = [[`${row.labels[i]} → ${column.labels[j]}`, ...above].join(", ")];
  if (cell.value === null) return [...lines, `undefined: ${cell.reason || "no reason is recorded"}`];
  lines.push(interval(cell.value, cell.low, cell.high, map.digits, map.unit));
  if (cell.null_low !== null) {
    const band = [cell.null_low, cell.null_high].map((end) => written(end, map.digits, map.unit));
    lines.push(`null: ${band.join(" to ")}`);
  }
  return cell.n === null ? lines : [...lines, `n = ${cell.n} prompts`];
}

/** All cells of a map as CSV, with the decimals of the page. */
function mapCsv(map) {
  const names = ["value", "low", "high", "null_low", "null_high", "n", "reason"];
  const rows = [[...map.axes.map((axis) => axis.column), ...names]];
  const walk = (place) => {
    const axis = map.axes[place.length];
    if (axis) return axis.keys.forEach((_, i) => walk([...place, i]));
    const cell = cellOf(map, place);
    const keys = place.map((i, k) => map.axes[k].keys[i]);
    rows.push([...keys, ...names.map((name) => cell[name])]);
  };
  walk([]);
  return csvOf(rows);
}

/** Three layers of cells: inside the null, pale and deep; each has text that is readable on it. */
function tracesOf(map, above) {
  const [rows, columns] = map.axes.slice(-2);
  const colours = map.limits[0] < 0 || map.name === "gain" ? DIVERGING : SEQUENTIAL;
  const { grey, ink } = themeColours();
  const kinds = { grey: [], pale: [], deep: [] };
  const [texts, hovers] = [[], []];
  rows.keys.forEach((_, i) => {
    const line = columns.keys.map((_, j) => cellOf(map, [...above, i, j]));
    const kindOf = (cell) => {
      if (!cell.clear || cell.value === null) return "grey";
      return isDeep(cell.value, map.limits, colours) ? "deep" : "pale";
    };
    for (const kind of Object.keys(kinds)) {
      kinds[kind].push(line.map((cell) => (kindOf(cell) === kind ? (cell.value ?? 0) : null)));
    }
    texts.push(line.map((cell) => [kindOf(cell), shortOf(map, cell)]));
    hovers.push(line.map((_, j) => describe(map, [...above, i, j]).map(plain).join("<br>")));
  });
  const common = {
    type: "heatmap", x: [...columns.keys.keys()], y: [...rows.keys.keys()],
    texttemplate: "%{text}", hovertext: hovers, hoverinfo: "text", hoverongaps: false,
    xgap: 2, ygap: 2, zmin: map.limits[0], zmax: map.limits[1],
  };
  const bar = { thickness: 10, outlinewidth: 0, ticksuffix: map.unit, len: 0.9 };
  const scale = scaleOf(colours);
  const colourOf = { grey: ink, pale: "#000000", deep: "#ffffff" };
  return Object.entries(kinds).map(([kind, z]) => ({
    ...common,
    z,
    text: texts.map((line) => line.map(([its, text]) => (its === kind ? text : ""))),
    colorscale: kind === "grey" ? [[0, grey], [1, grey]] : scale,
    textfont: { color: colourOf[kind], size: 11 },
    showscale: kind === "pale" && window.innerWidth > 620,
    colorbar: bar,
  }));
}

/** An axis with one tick per label; two labels may be the same text. */
function ticksOf(axis) {
  return { tickvals: [...axis.keys.keys()], ticktext: axis.labels.map(plain), showgrid: false,
    zeroline: false };
}

/** The number in a cell; brackets mark the inside of the null without colour. */
function shortOf(map, cell) {
  if (cell.value === null) return "–";
  const text = written(cell.value, map.unit === "°" ? 0 : 2, map.unit);
  // A map with nulls has none where there is nothing to test, as on the diagonal.
  const untested = map.cells.null_low && cell.null_low === null;
  return cell.clear || untested ? text : `(${text})`;
}

/** Draws a map into `host`; `open`, if given, is called with a cell's place. */
function drawMap(map, host, prefix, open = null) {
  const place = map.axes.map((axis) => (axis.slider ? map.start : 0));
  const above = map.axes.slice(0, -2);
  const [rows, columns] = map.axes.slice(-2);
  const figure = make("div", {
    className: "map", tabIndex: 0, role: "group", id: `${prefix}${map.name}-figure`,
    "aria-label": `${map.title}: heatmap. Arrow keys move from cell to cell` +
      (open ? "; Enter opens the pair." : "."),
  });
  // On a phone the figure scrolls sideways inside its place rather than writing over itself.
  const longest = Math.max(...rows.labels.map((label) => label.length));
  figure.style.minWidth = `${7 * longest + 44 * columns.keys.length + 20}px`;
  const said = make("output", { className: "said" });
  const hint = open ? "Point at a cell, or press the arrow keys; a click or Enter opens the pair."
    : "Point at a cell, or press the arrow keys.";

  const draw = () => {
    const height = 34 * rows.keys.length + 110;
    const layout = layoutOf({
      height,
      xaxis: { ...ticksOf(columns), tickangle: -35 },
      yaxis: { ...ticksOf(rows), autorange: "reversed" },
    });
    return Plotly.react(figure, tracesOf(map, place.slice(0, -2)), layout, CONFIG);
  };
  const say = () => (said.textContent = describe(map, place).join(" · "));
  const mark = () => {
    const [i, j] = place.slice(-2);
    const box = { x0: j - 0.5, x1: j + 0.5, y0: i - 0.5, y1: i + 0.5 };
    const line = { color: themeColours().ink, width: 2 };
    Plotly.relayout(figure, { shapes: [{ type: "rect", ...box, line }] });
    say();
  };

  const controls = above.map((axis, k) => controlOf(map, axis, place[k], (index) => {
    place[k] = index;
    draw();
    if (said.textContent !== hint) say();
  }));
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  figure.addEventListener("keydown", (event) => {
    const last = place.length - 1;
    if (event.key === "Enter" && open) open([...place]);
    if (!(event.key in moves)) return;
    event.preventDefault();
    if (figure.layout.shapes?.length) {  // the first arrow key marks the first cell
      const [down, right] = moves[event.key];
      place[last - 1] = Math.min(Math.max(place[last - 1] + down, 0), rows.keys.length - 1);
      place[last] = Math.min(Math.max(place[last] + right, 0), columns.keys.length - 1);
    }
    mark();
  });

  const file = `${prefix}${map.name}`;
  host.append(
    make("div", { className: "controls" }, ...controls.map((control) => control.field)),
    make("div", { className: "sideways" }, figure),
    said,
    make("p", { className: "meta" }, map.caption),
    downloads(map.title, {
      SVG: () => saveFigure(figure, file, "svg"),
      PNG: () => saveFigure(figure, file, "png"),
      CSV: () => offerText(mapCsv(map), `${file}.csv`, "text/csv"),
    }),
  );
  said.textContent = hint;
  draw();
  redraws.push(draw);
  const pointed = (event) => {
    const [i, j] = event.points[0].pointIndex;
    place.splice(-2, 2, i, j);
    say();
  };
  figure.on("plotly_hover", pointed);
  figure.on("plotly_click", (event) => {
    pointed(event);
    if (open) open([...place]);
  });
}

/** The slider or list of one axis. A slider moves the sliders of the same map of another run. */
function controlOf(map, axis, start, onChange) {
  const name = axis.title[0].toUpperCase() + axis.title.slice(1);
  if (!axis.slider) {
    return choice(name, axis.labels.map((text, i) => [i, text]), (i) => onChange(+i));
  }
  const output = make("output", {}, axis.labels[start]);
  const input = make("input", { type: "range", min: 0, max: axis.keys.length - 1, value: start });
  input.dataset.linked = `${map.name}-${axis.column}`;
  const show = () => {
    output.textContent = axis.labels[+input.value];
    input.setAttribute("aria-valuetext", `${axis.title} ${axis.labels[+input.value]}`);
    onChange(+input.value);
  };
  input.addEventListener("linked", show);
  input.addEventListener("input", () => {
    show();
    for (const other of document.querySelectorAll(`[data-linked="${input.dataset.linked}"]`)) {
      if (other === input || other.max !== input.max) continue;
      other.value = input.value;
      other.dispatchEvent(new Event("linked"));
    }
  });
  input.setAttribute("aria-valuetext", `${axis.title} ${axis.labels[start]}`);
  return { field: labelledField(name, input, " ", output) };
}
