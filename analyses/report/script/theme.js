// Colours: those of the page's style sheet, and two scales that readers of every colour vision tell
// from each other (ColorBrewer's PuOr and YlOrBr).

const DIVERGING = ["#542788", "#998ec3", "#d8daeb", "#f7f7f7", "#fee0b6", "#f1a340", "#b35806"];
const SEQUENTIAL = ["#ffffe5", "#fee391", "#fec44f", "#fe9929", "#cc4c02", "#662506"];

/** The page's colours now, dark or light. */
function themeColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "muted", "line", "page", "grey", "blue", "vermillion"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** Plotly's colour scale. */
function scaleOf(colours) {
  return colours.map((colour, i) => [i / (colours.length - 1), colour]);
}

function channels(colour) {
  return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
}

/** Relative luminance (WCAG 2) of the channels of a colour. */
function luminance(rgb) {
  const [r, g, b] = rgb.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Whether white text is easier to read than black text on a value's colour. */
function isDeep(value, limits, colours) {
  const share = Math.min(1, Math.max(0, (value - limits[0]) / (limits[1] - limits[0])));
  const place = share * (colours.length - 1);
  const at = Math.min(Math.floor(place), colours.length - 2);
  const [from, to] = [channels(colours[at]), channels(colours[at + 1])];
  return luminance(from.map((part, i) => part + (place - at) * (to[i] - part))) < 0.179;
}

/** What every figure shares: a transparent background, the page's font and colours. */
function layoutOf(extra) {
  const { ink, line, page } = themeColours();
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  const { xaxis, yaxis, ...rest } = extra;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    hoverlabel: { align: "left", bgcolor: ink, bordercolor: ink, font: { color: page } },
    margin: { l: 10, r: 10, t: 10, b: 10 },
    xaxis: { ...axis, fixedrange: true, ...xaxis },
    yaxis: { ...axis, fixedrange: true, ...yaxis },
    ...rest,
  };
}

const CONFIG = { displayModeBar: false, responsive: true };

// Every figure draws itself again when the reader changes between dark and light.
const redraws = [];
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const redraw of redraws) redraw();
});

/** Saves a figure as people print it: on white, with dark text. */
async function saveFigure(figure, name, format) {
  const text = { font: { ...figure.layout.font, color: "#1f2430" } };
  const layout = { ...figure.layout, ...text, paper_bgcolor: "white", plot_bgcolor: "white" };
  const size = { width: figure.clientWidth || 800, height: figure.clientHeight || 400 };
  const options = { format, scale: format === "png" ? 2 : 1, ...size };
  const address = await Plotly.toImage({ data: figure.data, layout }, options);
  offer(address, `${name}.${format}`);
}
