// Charts. Each is drawn when it comes into view; the program that draws them is unpacked for the first.
const MOST_BARS = 40;
const BAR = 26;  // height of a bar in pixels
const LANGUAGE = 16;  // height of a row of the heat map in pixels
const MOST_NAMES = 25;  // beside points
const NARROW = 600;  // charts that are narrower in pixels leave things out
// Colours of lines, one per model.
const LINES = ["a", "b", "c", "d", "e", "f", "g", "soft"];

// Run the program that draws charts, and return its function.
const unpackProgram = async () => {
  const packed = document.getElementById("chart-program").textContent;
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = make("script", { textContent: await new Response(stream).text() });
  document.head.append(script);
  return window.vegaEmbed;
};
let chartProgram = null;

// Charts use the colours of the style sheet, which follow the theme and are right on paper too.
const colour = (name) => `var(--${name})`;

const chartConfig = () => {
  const [text, soft, line] = ["text", "soft", "line"].map(colour);
  const titles = { labelColor: text, titleColor: soft, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
  return {
    background: "transparent", font: "system-ui, sans-serif", view: { stroke: null },
    axis: { ...titles, gridColor: line, domainColor: line, tickColor: line },
    legend: titles, line: { color: soft }, text: { color: text }, range: { category: ["a", "b", "soft"].map(colour) },
  };
};

// The functions below return the rows of each kind of chart; `label` is the text under the pointer.

// A number of a leaderboard with its interval.
const barRow = (row, cell, showsSource) => {
  const { model, source } = row.dataset;
  const { value, low, high } = cell.dataset;
  const shortName = row.querySelector(".name").textContent;
  const name = showsSource && source !== "measured" ? `${shortName} (${source})` : shortName;
  const ends = cell.querySelector(".ends")?.textContent ?? "";
  return {
    name, source, value: Number(value), low: Number(low), high: Number(high),
    label: `${model}, ${source}: ${cell.querySelector(".number").textContent} ${ends}`,
  };
};

const intervalRows = (chart) => {
  const table = chart.closest("section").querySelector("table");
  const titles = Array.from(table.tHead.rows[0].cells);
  const firstColumn = titles.findIndex((title) => title.dataset.dataset);
  const column = firstColumn + Number(chart.querySelector("select").value);
  const showsSource = firstColumn > 1;
  const rows = Array.from(table.tBodies[0].rows).filter((row) => !row.hidden && row.cells[column].dataset.value);
  chart.querySelector(".cut").textContent =
    rows.length > MOST_BARS ? `The ${MOST_BARS} highest of ${rows.length} numbers; filter the table to see others.` : "";
  const bars = rows.map((row) => barRow(row, row.cells[column], showsSource));
  return bars.sort((a, b) => b.value - a.value).slice(0, MOST_BARS);
};

const classRows = () => chosenClasses().map(({ name, a, b }) => ({
  name, a, b, side: a > b ? "A higher" : a < b ? "B higher" : "equal",
  label: `${name}: A ${rounded(a)}, B ${rounded(b)}`,
}));

const shareRows = () => {
  const { tests } = pairOf(Number(choice.a.value), Number(choice.b.value));
  return tests.filter(isShare).map(({ metric, a, b, better }) => {
    const { dataset, protocol, title } = data.metrics[metric];
    return {
      a, b, side: better ? `${better} better` : "neither",
      label: `${dataset} (${protocol}), ${title}: A ${a.toFixed(1)}, B ${b.toFixed(1)}`,
    };
  });
};

// The rows of a leaderboard that have a number in both chosen columns.
const metricRows = (chart) => {
  const table = chart.closest("section").querySelector("table");
  const selects = all("select", chart);
  const firstColumn = table.tHead.rows[0].cells.length - selects[0].options.length;
  const showsSource = firstColumn > 1;
  const rows = Array.from(table.tBodies[0].rows).filter((row) => !row.hidden);
  return rows.flatMap((row) => {
    const [across, up] = selects.map((select) => row.cells[firstColumn + Number(select.value)]);
    if (!across.dataset.value || !up.dataset.value) return [];
    const x = barRow(row, across, showsSource), y = barRow(row, up, showsSource);
    return [{
      name: x.name, source: x.source, x: x.value, xLow: x.low, xHigh: x.high, y: y.value, yLow: y.low, yHigh: y.high,
      label: `${x.label} across, ${y.label.split(": ").pop()} up`,
    }];
  });
};

const costRows = (chart) => {
  const table = chart.closest("details").querySelector("table");
  const select = chart.querySelector("select");
  const firstColumn = table.tHead.rows[0].cells.length - select.options.length;
  const column = firstColumn + Number(select.value);
  const rows = Array.from(table.tBodies[0].rows).filter((row) => row.cells[column].dataset.value);
  return rows.map((row) => {
    const { model, source, gflops } = row.dataset;
    const cell = row.cells[column];
    return {
      name: row.querySelector(".name").textContent, source, gflops: Number(gflops),
      value: Number(cell.dataset.value), front: "front" in cell.dataset,
      label: `${model}, ${source}: ${cell.firstChild.textContent} with ${rounded(Number(gflops), 2)} GFLOPs per image`,
    };
  });
};

const lengthRows = (chart) => {
  const table = chart.closest("details").querySelector("table");
  const titles = Array.from(table.tHead.rows[0].cells);
  const bodyRows = Array.from(table.tBodies[0].rows);
  const sumOf = (column) => bodyRows.reduce((sum, row) => sum + Number(row.cells[column].dataset.value), 0);
  const models = titles.map((title, column) => ({ title, column })).filter(({ title }) => title.dataset.model);
  models.sort((a, b) => sumOf(b.column) - sumOf(a.column));
  chart.querySelector(".cut").textContent =
    models.length > LINES.length ? `The ${LINES.length} highest of ${models.length} models; the table has all.` : "";
  return models.slice(0, LINES.length).flatMap(({ title, column }) => bodyRows.map((row) => {
    const { value, low, high, cut } = row.cells[column].dataset;
    const words = row.cells[0].textContent;
    return {
      name: title.querySelector(".name").textContent, words: words.replace(" words", ""),
      value: Number(value), low: Number(low), high: Number(high), whole: 100 - Number(cut),
      label: `${title.dataset.model}, ${words}: ${value} [${low}, ${high}], ${cut}% of the captions cut`,
    };
  }));
};

// A cell of the heat map for each language and model.
const languageRows = (chart) => {
  const table = chart.closest("details").querySelector("table");
  const titles = Array.from(table.tHead.rows[0].cells);
  chart.querySelector(".cut").textContent =
    titles.length > MOST_NAMES + 1 ? `The first ${MOST_NAMES} of ${titles.length - 1} models; the table has all.` : "";
  return Array.from(table.tBodies[0].rows).flatMap((row) => {
    const language = row.cells[0].textContent;
    return Array.from(row.cells).slice(1, MOST_NAMES + 1).filter((cell) => cell.dataset.value).map((cell) => {
      const title = titles[cell.cellIndex];
      return {
        language, name: title.querySelector(".name").textContent, value: Number(cell.textContent),
        label: `${title.dataset.model}, ${language}: ${cell.textContent}`,
      };
    });
  });
};

// Several models have one colour each, and dashes tell the lines of a model apart. The lines of a
// single model have one colour each.
const curveRows = (chart) => {
  const curves = data.curves.filter(({ panel }) => panel === chart.querySelector("select").selectedOptions[0].text);
  const models = [...new Set(curves.map(({ model }) => model))];
  chart.querySelector(".cut").textContent =
    models.length > LINES.length ? `The first ${LINES.length} of ${models.length} models; the table has all.` : "";
  const isSingle = models.length === 1;
  return curves.filter(({ model }) => models.indexOf(model) < LINES.length).flatMap(({ model, line, unit, steps, values }) =>
    steps.map((step, index) => ({
      name: isSingle ? line : data.models[model], line: isSingle ? "" : line, step, value: values[index],
      label: `${data.models[model]}, ${line}, step ${step}: ${values[index]} ${unit}`,
    })));
};

const chartRows = { curves: curveRows, intervals: intervalRows, classes: classRows, shares: shareRows, metrics: metricRows, costs: costRows, lengths: lengthRows, languages: languageRows };

// Changes of a chart's specification that depend on its rows or on the width of its place.
const nameAxesByModels = (specification) => {
  const titleOf = (side) => `${side.toUpperCase()}: ${choice[side].selectedOptions[0].text}, %`;
  specification.encoding.x.title = titleOf("a");
  specification.encoding.y.title = titleOf("b");
};

const adaptations = {
  classes: nameAxesByModels,
  shares: nameAxesByModels,
  metrics: (specification, rows, width, chosen) => {
    [specification.encoding.x.title, specification.encoding.y.title] = chosen;
    if (rows.every(({ source }) => source === "measured")) {
      for (const channel of ["color", "shape"]) specification.layer[2].encoding[channel].legend = null;
    }
    // There is no room for names beside points.
    if (width < NARROW || rows.length > MOST_NAMES) specification.layer.pop();
  },
  costs: (specification, rows, width) => {
    if (width >= NARROW) return;
    // There is no room for names beside points.
    specification.layer.pop();
    specification.encoding.x.scale.padding = 20;
  },
  intervals: (specification, rows) => {
    if (rows.every(({ source }) => source === "measured")) specification.encoding.color.legend = null;
  },
  curves: (specification, rows) => {
    const { color, strokeDash } = specification.layer[0].encoding;
    color.scale = { range: LINES.map(colour) };
    if (new Set(rows.map(({ line }) => line)).size === 1) strokeDash.legend = null;
  },
  languages: (specification, rows) => {
    specification.height = LANGUAGE * new Set(rows.map(({ language }) => language)).size;
  },
  lengths: (specification, rows, width) => {
    for (const { encoding: { stroke, color, shape } } of specification.layer) {
      (stroke ?? color).scale = { range: LINES.map(colour) };
      for (const legend of [color?.legend, shape?.legend]) if (legend) legend.columns = width < NARROW ? 1 : 2;
    }
  },
};

const specificationOf = (kind, description, rows, width, chosen) => {
  const specification = {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json", autosize: { type: "fit-x", contains: "padding" },
    width: "container", description, data: { name: "rows" }, ...structuredClone(data.charts[kind]),
  };
  adaptations[kind]?.(specification, rows, width, chosen);
  specification.datasets = { ...specification.datasets, rows };
  // A height by steps would make Vega-Lite warn of the width, which it takes from the page.
  specification.height ??= BAR * rows.length;
  return specification;
};

const chosenTexts = (chart) => all("select", chart).map((select) => select.selectedOptions[0].text);

const drawChart = async (chart) => {
  const kind = chart.dataset.chart;
  const plot = chart.querySelector(".plot");
  chart.label ??= plot.getAttribute("aria-label");  // Vega replaces it by the description
  const request = (chart.request ?? 0) + 1;
  chart.request = request;
  try {
    chartProgram ??= unpackProgram();
    const embed = await chartProgram;
    if (chart.request !== request) return;  // the chart was requested again in the meantime
    const rows = chartRows[kind](chart);
    chart.view?.finalize();
    chart.view = null;
    chart.savers.hidden = true;
    if (rows.length === 0) {
      plot.textContent = "No number of this column is shown.";
      return;
    }
    // The page's policy forbids code from expressions (hence `ast`) and style elements.
    chart.view = await embed(plot, specificationOf(kind, chart.label, rows, plot.clientWidth, chosenTexts(chart)), {
      ast: true, renderer: "svg", actions: false, defaultStyle: false, config: chartConfig(),
      tooltip: { disableDefaultStyle: true },
    });
    chart.savers.hidden = false;
  } catch (problem) {
    plot.textContent = `No chart can be drawn by this browser (${problem.message}); its numbers are in the table.`;
  }
};

// A file is for paper: it has the light colours, whichever the page has.
const paperColour = (name) => {
  const probe = make("span", { hidden: true });
  probe.style.colorScheme = "light";
  probe.style.color = colour(name);
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
};

const chartSvg = async (chart) => {
  const svg = await chart.view.view.toSVG();
  return svg.replace(/var\(--([\w-]+)\)/g, (_, name) => paperColour(name));
};

const PNG_SCALE = 3;  // pixels per pixel of the screen

const chartPng = async (chart) => {
  const image = make("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(await chartSvg(chart))}` });
  await image.decode();
  const canvas = make("canvas", { width: PNG_SCALE * image.naturalWidth, height: PNG_SCALE * image.naturalHeight });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve));
};

// The name of a chart's file: the kind of the chart, and what is chosen in it.
const chartName = (chart) => [chart.dataset.chart, ...chosenTexts(chart)].join(" ");

const saveButtons = (chart) => [["svg", chartSvg], ["png", chartPng]].map(([extension, contentOf]) => {
  const text = `Save ${extension.toUpperCase()}`;
  const label = `${text}: ${chart.querySelector(".plot").getAttribute("aria-label")}`;
  const button = make("button", { type: "button", textContent: text, ariaLabel: label });
  button.addEventListener("click", async () => saveFile(chartName(chart), extension, await contentOf(chart), "image/svg+xml"));
  return button;
});

const charts = all(".chart");
const drawn = new WeakSet();
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting || drawn.has(target)) continue;
    drawn.add(target);
    drawChart(target);
  }
}, { rootMargin: "200px" });
const redraw = (kind) => soon(() => charts.filter((chart) => drawn.has(chart) && (!kind || chart.dataset.chart === kind)).forEach(drawChart));
for (const chart of charts) {
  chart.savers = make("p", { className: "controls tools", hidden: true }, saveButtons(chart));
  chart.append(chart.savers);
  for (const select of all("select", chart)) select.addEventListener("change", () => drawChart(chart));
  watcher.observe(chart);
}
filterListeners.push(redraw("intervals"), redraw("metrics"));
compareListeners.push(redraw("classes"), redraw("shares"));
// The other charts are drawn when the browser is idle, so that they are printed too.
addEventListener("load", () => (window.requestIdleCallback ?? setTimeout)(async () => {
  for (const chart of charts.filter((candidate) => !drawn.has(candidate) && candidate.querySelector(".plot").clientWidth > 0)) {
    drawn.add(chart);
    await drawChart(chart);
  }
}));
