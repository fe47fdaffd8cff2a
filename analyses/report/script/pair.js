// A pair of the leakage matrix: its numbers, its curve, its directions by layer and its cause.

/** The cells of a map along its layers, at fixed keys of the other axes; null if it has no such. */
function alongLayers(map, keys) {
  if (!map) return null;
  const layers = map.axes[0];
  const rest = map.axes.slice(1).map((axis) => axis.keys.indexOf(keys[axis.column]));
  if (rest.includes(-1)) return null;
  const cells = layers.keys.map((_, k) => cellOf(map, [k, ...rest]));
  return { layers: layers.keys.map(Number), cells };
}

/** A line with its interval as a band; `names` are the columns of `rows` in the order x, y. */
function lineWithBand(x, rows, colour, name, digits, unit = "") {
  const values = (key) => rows.map((row) => row[key]);
  const text = rows.map((row) => {
    if (row.value === null) return `undefined: ${plain(row.reason || "")}`;
    return plain(interval(row.value, row.low, row.high, digits, unit));
  });
  const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  return [
    { ...edge, y: values("low") },
    { ...edge, y: values("high"), fill: "tonexty", fillcolor: `${colour}33` },
    { x, y: values("value"), text, name, mode: "lines+markers", hoverinfo: "x+text",
      line: { color: colour, width: 2 }, marker: { size: 5 } },
  ];
}

/** The null band of cells along their layers. */
function nullBand(x, cells) {
  const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
  return [
    { ...edge, y: cells.map((cell) => cell.null_low), showlegend: false },
    { ...edge, y: cells.map((cell) => cell.null_high), fill: "tonexty", name: "null",
      fillcolor: `${themeColours().muted}40` },
  ];
}

function lineFigure(host, title, why, traces, xTitle, yTitle) {
  const box = make("div", { className: "small" }, make("h4", {}, title));
  host.append(box);
  if (!traces) return box.append(make("p", { className: "meta" }, why));
  const figure = make("div", { className: "line" });
  box.append(figure);
  const layout = layoutOf({
    height: 260, showlegend: true, legend: { orientation: "h", y: 1.12, x: 0 },
    xaxis: { title: { text: plain(xTitle) } }, yaxis: { title: { text: plain(yTitle) } },
  });
  Plotly.newPlot(figure, traces, layout, CONFIG);
  const file = title.toLowerCase().replaceAll(" ", "-");
  box.append(downloads(title, {
    SVG: () => saveFigure(figure, file, "svg"),
    PNG: () => saveFigure(figure, file, "png"),
    CSV: () => offerText(linesCsv(figure.data), `${file}.csv`, "text/csv"),
  }));
}

/** The lines of a figure as CSV: series, x, value, low, high. */
function linesCsv(traces) {
  const rows = [["series", "x", "value", "low", "high"]];
  traces.forEach((trace, k) => {
    if (trace.mode !== "lines+markers") return;
    const [low, high] = [traces[k - 2], traces[k - 1]];
    trace.x.forEach((x, i) => rows.push([trace.name, x, trace.y[i], low.y[i], high.y[i]]));
  });
  return csvOf(rows);
}

/** Shows the pair at `place` of the leakage matrix in `panel` and moves the focus there. */
function openPair(run, place, panel) {
  const matrix = run.maps.leakage;
  const [quantities, arms, domains] = matrix.axes;
  const [arm, domain] = [arms.keys[place[1]], domains.keys[place[2]]];
  const { blue, vermillion } = themeColours();
  const heading = make("h3", { tabIndex: -1 }, `${arms.labels[place[1]]} → ${domains.labels[place[2]]}`);
  const close = make("button", { type: "button" }, "Close");
  close.addEventListener("click", () => {
    panel.hidden = true;
    panel.opener?.focus();
  });
  const numbers = quantities.keys.map((_, k) => {
    const [, value, ...rest] = describe(matrix, [k, place[1], place[2]]);
    return make("li", {}, `${quantities.labels[k]}: ${[value, ...rest].join(", ")}`);
  });
  const cause = run.causes[arm]?.[domain];
  const unknown = ["not known; ", make("code", {}, "spillover explain RUN"), " looks for it."];
  const plots = make("div", { className: "plots" });
  panel.replaceChildren(
    make("div", { className: "bar" }, heading, close),
    make("ul", {}, ...numbers),
    make("p", {}, make("strong", {}, "Cause: "), ...(cause ? [cause] : unknown)),
    plots,
  );
  panel.hidden = false;

  const curve = run.curves[arm]?.[domain];
  const rows = curve?.level.map((_, i) => (
    { value: curve.value[i], low: curve.low[i], high: curve.high[i] }
  ));
  const diagonal = { x: [0, 1], y: [0, 1], mode: "lines", name: "same rate as the target",
    line: { color: themeColours().muted, width: 1, dash: "dot" }, hoverinfo: "skip" };
  lineFigure(plots, "Leakage curve", "There is no curve: this arm was not scored along training.",
    rows && [diagonal, ...lineWithBand(curve.level, rows, vermillion, domains.labels[place[2]], 4)],
    "forgetting level of the target", "lost refusal");

  const angle = alongLayers(run.maps.rotation, { arm, domain });
  lineFigure(plots, "Rotation of the direction", "No rotation was fitted.",
    angle && [...nullBand(angle.layers, angle.cells),
      ...lineWithBand(angle.layers, angle.cells, vermillion, "rotation", 2, "°")],
    "layer", "degrees");

  const concept = run.concepts[arm];
  const cosine = concept && concept !== domain &&
    alongLayers(run.maps.cosine, { domain_a: concept, domain_b: domain });
  lineFigure(plots, "Cosine with the target before",
    concept === domain ? "This domain is the target." : "There is no target, or no direction.",
    cosine && [...nullBand(cosine.layers, cosine.cells),
      ...lineWithBand(cosine.layers, cosine.cells, blue, "cosine", 4)],
    "layer", "cosine");
  heading.focus();
}
