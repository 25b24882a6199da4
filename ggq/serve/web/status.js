// What the server is doing, asked for every two seconds while the page is seen.
const make = (name, attributes, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
const bytes = (count) => count < 1e6 ? `${Math.round(count / 1e3)} kB` : count < 1e9 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e9).toFixed(2)} GB`;
const seconds = (value) => value === null || value === undefined ? "–" : value < 1 ? `≤ ${Math.round(value * 1000)} ms` : `≤ ${value} s`;
const cells = (pairs) => pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value))));
const key = (() => { try { return (JSON.parse(localStorage.getItem("ggq.settings")) || {}).key; } catch { return ""; } })();
let before = {};

function described(model, elapsed) {
  const last = before[model.name], rate = last && elapsed > 0 ? (model.generation_tokens - last.generation_tokens) / elapsed : 0;
  const read = last && elapsed > 0 ? (model.prompt_tokens - last.prompt_tokens) / elapsed : 0;
  const pairs = [["State", model.state]];
  if (model.state === "loaded") pairs.push(["Running", model.running], ["Waiting", model.waiting],
    ["Cache", `${bytes(model.cache_bytes)}, ${(100 * model.cache).toFixed(1)} %`], ["Prefixes kept", model.kept],
    ["Prompt tokens found", model.queries ? `${Math.round(100 * model.hits / model.queries)} %` : "–"], ["Preempted", model.preempted],
    ["Answers", `${rate.toFixed(1)} tokens/s`], ["Prompts", `${read.toFixed(1)} tokens/s`]);
  for (const share of ["0.5", "0.95", "0.99"]) pairs.push([`First token, ${100 * share} %`, seconds(model.first_token[share])]);
  for (const share of ["0.5", "0.95", "0.99"]) pairs.push([`Between tokens, ${100 * share} %`, seconds(model.between_tokens[share])]);
  return make("section", {"aria-label": model.name}, make("h2", {}, model.name), make("dl", {class: "grid"}, ...cells(pairs)));
}

let asked = 0;
async function refresh() {
  if (document.hidden) return;
  try {
    const response = await fetch("state", {headers: key ? {authorization: `Bearer ${key}`} : {}});
    const state = await response.json();
    if (!response.ok) throw new Error(state.error.message);
    const now = performance.now(), elapsed = asked ? (now - asked) / 1000 : 0;
    document.getElementById("server").replaceChildren(...cells([["Up", `${Math.floor(state.uptime / 3600)} h ${Math.floor(state.uptime / 60) % 60} min`], ["Memory free", bytes(state.available_memory)]]));
    document.getElementById("models").replaceChildren(...state.models.map((model) => described(model, elapsed)));
    before = Object.fromEntries(state.models.map((model) => [model.name, model]));
    asked = now;
    document.getElementById("problem").textContent = "";
  } catch (problem) {
    document.getElementById("problem").textContent = `The server does not answer: ${problem.message}`;
  }
}
refresh();
setInterval(refresh, 2000);
const theme = (() => { try { return (JSON.parse(localStorage.getItem("ggq.settings")) || {}).theme; } catch { return ""; } })();
if (theme) document.documentElement.dataset.theme = theme;
