// Fills the page's sections from its data. Without this script the page still reads: its figures
// are pictures then.

/** Download buttons under every still figure. */
function addDownloads(numbers) {
  for (const picture of document.querySelectorAll("img[data-name]")) {
    const { name } = picture.dataset;
    const formats = { SVG: () => offer(picture.src, `${name}.svg`), PNG: () => savePicture(picture) };
    const csv = numbers[name];
    if (csv) formats.CSV = () => offerText(csv, `${name}.csv`, "text/csv");
    picture.parentElement.append(downloads(picture.alt, formats));
  }
}

/** A still figure as PNG, at twice its size. */
function savePicture(picture) {
  const size = { width: 2 * picture.naturalWidth, height: 2 * picture.naturalHeight };
  const canvas = make("canvas", size);
  canvas.getContext("2d").drawImage(picture, 0, 0, size.width, size.height);
  canvas.toBlob((file) => {
    const address = URL.createObjectURL(file);
    offer(address, `${picture.dataset.name}.png`);
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  });
}

/** Draws the maps, the pairs and the prompts of one run into the elements that name its index. */
function explore(run, index) {
  const prefix = index ? `${index + 1}-` : "";
  for (const host of document.querySelectorAll(`[data-run="${index}"]`)) {
    const { section } = host.dataset;
    if (section === "prompts") drawPrompts(run.prompts, host, prefix);
    else if (section === "leakage") {
      const panel = make("section", { className: "pair", hidden: true, "aria-label": "Pair" });
      drawMap(run.maps.leakage, host, prefix, (place) => openPair(run, place, panel));
      panel.opener = host.querySelector(".map");
      host.append(panel);
    } else drawMap(run.maps[section], host, prefix);
  }
}

document.documentElement.classList.add("script");
const page = JSON.parse(document.getElementById("data").textContent);
addDownloads(page.numbers);
page.runs.forEach(explore);
document.documentElement.dataset.drawn = "yes";
