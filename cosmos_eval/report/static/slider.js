// An image under the true classes and those of two models, wiped over each other by a slider.
const STOPS = ["image", "truth", "A", "B"];

const layersOf = (figure) => Object.fromEntries(
  all(".layers > figure", figure).map((layer) => [layer.dataset.layer, layer]));

// The model that the page compares first there, where it has a map; else the next one.
const choiceOf = (letter, models, place) => {
  const options = models.map((model) => make("option", { value: model, textContent: model }));
  const select = make("select", {}, options);
  const first = models.indexOf(data.models[data.first[place]]);
  select.selectedIndex = first < 0 ? Math.min(place, models.length - 1) : first;
  return { select, label: make("label", {}, [`${letter} `, select]) };
};

const makeSlider = (figure) => {
  const layers = layersOf(figure);
  const models = Object.keys(layers).filter((name) => layers[name].classList.contains("map") && name !== "truth");
  const name = figure.querySelector(":scope > figcaption").textContent;
  const range = make("input", { type: "range", min: "0", max: String(1 + Math.min(2, models.length)), step: "0.05", value: "1" });
  range.setAttribute("aria-label", `Image, truth, models: ${name}`);
  const [a, b] = [choiceOf("A", models, 0), choiceOf("B", models, 1)];
  const edge = make("div", { className: "edge", ariaHidden: "true" });
  const stops = STOPS.slice(0, Number(range.max) + 1).map((stop, place) => {
    const button = make("button", { type: "button", textContent: stop });
    button.addEventListener("click", () => { range.value = place; show(); });
    return button;
  });

  const show = () => {
    const at = Number(range.value);
    const shown = [layers.image, layers.truth, layers[a.select.value], layers[b.select.value]];
    for (const layer of Object.values(layers)) layer.classList.remove("shown");
    // B wipes nothing away where it is the model that A is.
    const last = shown[3] === shown[2] ? 2 : stops.length - 1;
    const reached = (stop) => (stop > last ? 0 : 100 * Math.max(0, Math.min(1, at - stop + 1)));
    for (let stop = 1; stop <= last; stop += 1) {
      if (reached(stop) === 0 || reached(stop + 1) === 100) continue;
      shown[stop].classList.add("shown");
      shown[stop].style.setProperty("--to", `${reached(stop)}%`);
      shown[stop].style.setProperty("--from", `${reached(stop + 1)}%`);
    }
    const part = at - Math.floor(at);
    edge.hidden = part === 0;
    edge.style.setProperty("--at", `${100 * part}%`);
    stops.forEach((button, place) => button.setAttribute("aria-pressed", String(place === at)));
    const label = (place) => ({ 2: `A, ${a.select.value}`, 3: `B, ${b.select.value}` })[place] ?? STOPS[place];
    range.setAttribute("aria-valuetext", part === 0
      ? label(at)
      : `${label(Math.floor(at))}, and ${label(Math.ceil(at))} from the left up to ${Math.round(100 * part)}%`);
  };

  const choices = make("p", { className: "controls" }, models.length > 1 ? [a.label, b.label] : models.length ? [a.label] : []);
  const slider = make("div", { className: "slider" }, [range, make("div", { className: "stops" }, stops), choices]);
  for (const select of [a.select, b.select]) select.addEventListener("change", show);
  range.addEventListener("input", show);
  const stack = figure.querySelector(".layers");
  stack.classList.add("stacked");
  stack.append(edge);
  stack.after(slider);
  show();
};

all("figure.segmentation").forEach(makeSlider);
