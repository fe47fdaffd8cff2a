// Small parts that every section uses. Text of prompts, models and files enters the page as text
// nodes only: no section builds HTML from strings.

/** An element with properties and children; a string becomes a text node. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A number with the decimals that the page prints and a typographic minus; "–" without one. */
function written(value, digits, unit = "") {
  if (value === null || value === undefined) return "–";
  const text = value.toFixed(digits);
  return (Number(text) ? text.replace("-", "−") : text.replace("-", "")) + unit;
}

/** `0.50 (0.40 to 0.60)`, without the brackets where there is no interval. */
function interval(value, low, high, digits, unit = "") {
  const number = written(value, digits, unit);
  if (value === null || low === null || low === undefined) return number;
  return `${number} (${written(low, digits, unit)} to ${written(high, digits, unit)})`;
}

/** The text of row `i` in a column of few different texts. */
function decoded(column, i) {
  return column.codes[i] < 0 ? "" : column.names[column.codes[i]];
}

let labelled = 0;

/** A control with its label, which is the control's whole name for a screen reader. */
function labelledField(label, control, ...after) {
  control.id = `control-${(labelled += 1)}`;
  const name = make("label", { htmlFor: control.id }, label);
  return make("span", { className: "field" }, name, " ", control, ...after);
}

/** A labelled list of choices: pairs of value and text. */
function choice(label, options, onChange) {
  const list = make("select", {}, ...options.map(([value, text]) => make("option", { value }, text)));
  list.addEventListener("change", () => onChange(list.value));
  return { list, field: labelledField(label, list) };
}

/** CSV of rows, the names of the columns first; texts that need quotes get them. */
function csvOf(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

/** Offers a file for download; `address` is a data or blob address. */
function offer(address, name) {
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

function offerText(text, name, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  offer(address, name);
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** The row of download buttons of a figure; `formats` maps a format to what makes the file. */
function downloads(title, formats) {
  const buttons = Object.entries(formats).map(([format, run]) => {
    const button = make("button", { type: "button", "aria-label": `${title}: ${format}` }, format);
    button.addEventListener("click", run);
    return button;
  });
  return make("div", { className: "downloads" }, "Download: ", ...buttons);
}

/** Texts for Plotly, which reads a few tags and entities in them. */
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
