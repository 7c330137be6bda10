// Draws the charts in the colours of the style sheet, redraws them if these change, and shows the text of the picked layer.
(() => {
  "use strict";
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map();

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  }

  function theme() {
    const [ink, soft, line] = ["ink", "soft", "line"].map(colour);
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: "transparent",
      font,
      view: { stroke: null },
      title: { color: ink, font, fontSize: 14, fontWeight: 500 },
      axis: {
        labelColor: ink, titleColor: soft, gridColor: line, domainColor: line, tickColor: line,
        labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 190, labelOverlap: "greedy",
      },
      axisXQuantitative: { tickCount: { expr: "max(2, ceil(width / 70))" } },
      axisY: { domain: false, ticks: false, labelPadding: 8 },
      axisYQuantitative: { tickCount: 5, titlePadding: 8 },
      legend: { labelColor: ink, titleColor: soft, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
      range: {
        category: ["one", "two", "three", "four", "five", "six"].map(colour),
        diverging: ["low", "middle", "high"].map(colour),
        heatmap: ["low", "middle"].map(colour),
      },
      style: {
        covered: { color: colour("covered") },
        halo: { stroke: colour("paper"), strokeWidth: 4, strokeJoin: "round", fontSize: 11.5 },
        line: { color: ink },
        note: { color: soft, fontSize: 11.5 },
        value: { color: ink, fontSize: 11.5 },
      },
    };
  }

  async function draw(element) {
    near.unobserve(element);
    drawn.get(element.id)?.finalize();
    const spec = { width: "container", autosize: { type: "fit-x", contains: "padding" }, ...specs[element.id] };
    const tooltip = { theme: dark.matches ? "dark" : "light" };
    const view = await vegaEmbed(element, spec, { actions: false, renderer: "svg", config: theme(), tooltip });
    drawn.set(element.id, view);
    element.style.minHeight = "";
  }

  const charts = [...document.querySelectorAll(".chart")].filter((element) => element.id in specs);
  const near = new IntersectionObserver((entries) => {
    entries.filter((each) => each.isIntersecting).forEach((each) => draw(each.target));
  }, { rootMargin: "600px" });
  for (const element of charts) {
    element.style.minHeight = `${specs[element.id].height + 60}px`; // keeps the page from moving when the chart is drawn
    near.observe(element);
  }

  // Other charts are drawn one by one when the browser is idle, for readers who print, search or take a screenshot.
  const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 50));
  const waiting = () => charts.filter((element) => !drawn.has(element.id));
  const drawRest = () => idle(async () => {
    const [next] = waiting();
    if (next) {
      await draw(next);
      drawRest();
    }
  });
  window.addEventListener("load", drawRest);

  const redraw = () => charts.filter((element) => drawn.has(element.id)).forEach(draw);
  dark.addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => waiting().forEach(draw));

  for (const select of document.querySelectorAll("select")) {
    select.addEventListener("change", () => {
      for (const words of document.querySelectorAll(`[data-layer-of="${select.id}"]`)) {
        words.hidden = words.dataset.layer !== select.value;
      }
    });
  }
})();
