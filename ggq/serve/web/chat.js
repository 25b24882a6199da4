// The page: conversations are trees of messages, kept in this browser; an answer comes as server-sent events.
const $ = (id) => document.getElementById(id);
const fields = ["system", "temperature", "top_p", "top_k", "max_tokens", "seed", "key"];
const load = (name, otherwise) => { try { return JSON.parse(localStorage.getItem(name)) ?? otherwise; } catch { return otherwise; } };
const save = (name, value) => { try { localStorage.setItem(name, JSON.stringify(value)); } catch { say("This browser keeps no more conversations."); } };
const chats = load("ggq.chats", {});
const settings = load("ggq.settings", {});
let current = load("ggq.current", null), running = null, contexts = {};

const say = (text) => { $("announce").textContent = text; };
const id = () => Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
const headers = () => ({"content-type": "application/json", ...(settings.key ? {authorization: `Bearer ${settings.key}`} : {})});

async function copy(text, button) {
  try { await navigator.clipboard.writeText(text); } catch {
    const area = make("textarea", {class: "hidden"});
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1200);
}

function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

// ---- conversations: nodes by id, each with its parent; `chosen` says which child of a node is shown

function chat() {
  if (!chats[current]) {
    current = id();
    chats[current] = {title: "New chat", nodes: {}, chosen: {}, made: Date.now()};
  }
  return chats[current];
}
const children = (tree, parent) => Object.values(tree.nodes).filter((node) => node.parent === parent).sort((a, b) => a.made - b.made);
function path(tree) {
  const found = [];
  for (let parent = "root"; ;) {
    const several = children(tree, parent);
    if (!several.length) return found;
    const node = tree.nodes[tree.chosen[parent]] || several[several.length - 1];
    found.push(node);
    parent = node.id;
  }
}
function add(tree, parent, role, text) {
  const node = {id: id(), parent, role, text, reasoning: "", made: Date.now() + Object.keys(tree.nodes).length / 1000};
  tree.nodes[node.id] = node;
  tree.chosen[parent] = node.id;
  return node;
}
const keep = () => { save("ggq.chats", chats); save("ggq.current", current); };

// ---- drawing

function drawChats() {
  const order = Object.entries(chats).sort((a, b) => b[1].made - a[1].made);
  $("chats").replaceChildren(...order.map(([key, each]) => make("li", {},
    make("button", {type: "button", "aria-current": key === current ? "true" : null, onclick: () => { select(key); }}, each.title),
    make("button", {type: "button", "aria-label": `Delete ${each.title}`, onclick: () => { remove(key); }}, "×"))));
}

function draw() {
  const shown = path(chat());
  $("messages").replaceChildren(...shown.map((node) => drawn(node)));
  drawChats();
  figures(shown[shown.length - 1]);
  $("messages").scrollTop = $("messages").scrollHeight;
}

function drawn(node) {
  const body = make("div", {class: "body"});
  const item = make("li", {class: node.role, "data-id": node.id}, make("span", {class: "hidden"}, node.role === "user" ? "You: " : "Model: "), body, tools(node));
  fill(item, node);
  return item;
}

function fill(item, node) {
  const body = item.querySelector(".body");
  const parts = [];
  if (node.reasoning) {
    const open = body.querySelector("details")?.open;
    parts.push(make("details", {open: open || false}, make("summary", {}, node.text ? "Thoughts" : "Thinking …"), node.reasoning));
  }
  parts.push(...(node.role === "user" ? [node.text] : markdown(node.text)));
  if (node.error) parts.push(make("p", {class: "failed"}, node.error));
  if (!parts.length && running?.node !== node) parts.push("The answer holds no text.");
  if (!parts.length) parts.push(node.progress ? `Reading ${node.progress[0]} of ${node.progress[1]} tokens …` : "…");
  body.replaceChildren(...parts);
}

function tools(node) {
  const tree = chat(), several = children(tree, node.parent), place = several.findIndex((each) => each.id === node.id);
  const found = [];
  const button = (label, text, action) => found.push(make("button", {type: "button", "aria-label": label, onclick: action}, text));
  if (several.length > 1) {
    const step = (by) => { tree.chosen[node.parent] = several[(place + by + several.length) % several.length].id; keep(); draw(); };
    button("Previous version", "‹", () => step(-1));
    found.push(make("span", {}, `${place + 1}/${several.length}`));
    button("Next version", "›", () => step(1));
  }
  if (node.role === "user") button("Edit message", "Edit", () => edit(node));
  else button("Answer again", "Again", () => answer(node.parent));
  found.push(make("button", {type: "button", "aria-label": "Copy message", onclick: (event) => copy(node.text, event.target)}, "Copy"));
  if (node.rate) found.push(make("span", {}, `${node.rate.toFixed(1)} tokens/s`));
  if (node.model) found.push(make("span", {}, node.model));
  return make("div", {class: "tools"}, ...found);
}

function figures(node) {
  const usage = node && node.usage, context = contexts[$("model").value];
  const share = usage && context ? `${usage.total_tokens} of ${context} tokens, ${Math.round(100 * usage.total_tokens / context)} % of the context` : "";
  $("figures").textContent = [node && node.rate ? `${node.rate.toFixed(1)} tokens/s` : "", share].filter(Boolean).join(" · ");
}

function edit(node) {
  const item = document.querySelector(`[data-id="${node.id}"]`);
  const area = make("textarea", {"aria-label": "Edited message", rows: "4"});
  area.value = node.text;
  area.style.width = "100%";
  const done = () => { const tree = chat(); const fresh = add(tree, node.parent, "user", area.value); keep(); draw(); answer(fresh.id); };
  const row = make("div", {class: "row"}, make("button", {type: "button", onclick: draw}, "Cancel"), make("button", {type: "button", onclick: done}, "Send edited"));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); done(); }
    if (event.key === "Escape") draw();
  });
  item.querySelector(".body").replaceChildren(area, row);
  area.focus();
}

// ---- asking

function request(parent) {
  const tree = chat(), messages = [];
  for (let node = tree.nodes[parent]; node; node = tree.nodes[node.parent]) messages.unshift({role: node.role, content: node.text});
  if (settings.system) messages.unshift({role: "system", content: settings.system});
  const body = {model: $("model").value, messages, stream: true, stream_options: {include_usage: true}};
  for (const name of ["temperature", "top_p", "top_k", "max_tokens", "seed"]) if (settings[name]) body[name] = Number(settings[name]);
  return body;
}

async function answer(parent) {
  if (running) return;
  const node = add(chat(), parent, "assistant", "");
  node.model = $("model").value;
  draw();
  const abort = new AbortController(), item = () => document.querySelector(`[data-id="${node.id}"]`);
  running = {abort, node};
  busy(true);
  let first = 0, count = 0, waiting = false;
  const show = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const box = $("messages"), near = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
      if (item()) fill(item(), node);
      if (near) box.scrollTop = box.scrollHeight;
    });
  };
  try {
    const response = await fetch("v1/chat/completions", {method: "POST", headers: headers(), body: JSON.stringify(request(parent)), signal: abort.signal});
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const [kind, data] of events(response.body)) {
      if (kind === "progress") node.progress = data;
      else {
        if (data.error) throw new Error(data.error.message);
        if (data.usage) node.usage = data.usage;
        const delta = data.choices[0]?.delta || {};
        if (delta.content || delta.reasoning_content) { first = first || performance.now(); count++; }
        node.text += delta.content || "";
        node.reasoning += delta.reasoning_content || "";
      }
      show();
    }
  } catch (problem) {
    if (problem.name !== "AbortError") node.error = problem.message || String(problem);
  }
  const tokens = node.usage ? node.usage.completion_tokens : count;
  const seconds = (performance.now() - first) / 1000;
  if (first && tokens > 1 && seconds > 0.05) node.rate = (tokens - 1) / seconds;
  delete node.progress;
  if (!node.text && !node.error && !node.reasoning) node.error = "Stopped before anything was written.";
  running = null;
  busy(false);
  keep();
  draw();
  say(node.error ? "The answer failed." : "The answer is complete.");
}

async function* events(stream) {
  const reader = stream.getReader(), decoder = new TextDecoder();
  for (let held = ""; ;) {
    const {done, value} = await reader.read();
    if (done) return;
    held += decoder.decode(value, {stream: true});
    for (let end; (end = held.indexOf("\n\n")) >= 0; held = held.slice(end + 2)) {
      const text = held.slice(0, end);
      const progress = /^: progress (\d+)\/(\d+)/.exec(text);
      if (progress) yield ["progress", [Number(progress[1]), Number(progress[2])]];
      else if (text.startsWith("data: ") && text !== "data: [DONE]") yield ["data", JSON.parse(text.slice(6))];
    }
  }
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
}

function send() {
  const text = $("question").value.trim();
  if (!text || running) return;
  const tree = chat(), shown = path(tree);
  if (!shown.length) tree.title = text.slice(0, 60);
  const node = add(tree, shown.length ? shown[shown.length - 1].id : "root", "user", text);
  $("question").value = "";
  keep();
  answer(node.id);
}

function select(key) {
  running?.abort.abort();
  current = key;
  keep();
  draw();
  menu(false);
  $("question").focus();
}

function remove(key) {
  if (key === current) running?.abort.abort();
  delete chats[key];
  if (key === current) current = null;
  chat();
  keep();
  draw();
}

function menu(open) {
  $("side").classList.toggle("open", open);
  $("menu").setAttribute("aria-expanded", String(open));
}

async function models() {
  try {
    const response = await fetch("v1/models", {headers: headers()});
    const found = await response.json();
    if (!response.ok) throw new Error(found.error.message);
    contexts = Object.fromEntries(found.data.map((each) => [each.id, each.max_model_len]));
    $("model").replaceChildren(...found.data.map((each) => make("option", {value: each.id}, each.id)));
    if (settings.model in contexts) $("model").value = settings.model;
  } catch (problem) {
    $("figures").textContent = `The models are not known: ${problem.message}`;
  }
}

const theme = () => { if (settings.theme) document.documentElement.dataset.theme = settings.theme; };

$("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
$("stop").addEventListener("click", () => running?.abort.abort());
$("new").addEventListener("click", () => { running?.abort.abort(); current = null; chat(); keep(); draw(); menu(false); $("question").focus(); });
$("menu").addEventListener("click", () => menu(!$("side").classList.contains("open")));
$("open-settings").addEventListener("click", () => { for (const name of fields) $(name).value = settings[name] || ""; $("settings").showModal(); });
$("settings").addEventListener("close", () => { for (const name of fields) settings[name] = $(name).value; save("ggq.settings", settings); models(); });
$("model").addEventListener("change", () => { settings.model = $("model").value; save("ggq.settings", settings); });
$("theme").addEventListener("click", () => {
  const dark = settings.theme ? settings.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  settings.theme = dark ? "light" : "dark";
  save("ggq.settings", settings);
  theme();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !$("settings").open) running.abort.abort();
  if (event.altKey && event.key === "n") { event.preventDefault(); $("new").click(); }
});
theme();
models().then(draw);
