// Markdown to elements. Nothing is ever parsed as HTML: texts become text nodes.
const markdown = (() => {
  const make = (name, attributes, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const words = new Set(("and as async await break case catch class const continue def default del do elif else enum except export extends false " +
    "finally fn for from function global if impl import in interface is lambda let match mut new nil None not null or package pass pub raise return self " +
    "static struct super switch this throw True False true try type use var void while with yield").split(" "));
  const pieces = /("""[^]*?"""|'''[^]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)|(\/\/[^\n]*|#[^\n]*|\/\*[^]*?\*\/|--[^\n]*)|(\b\d[\w.]*\b)|([A-Za-z_]\w*)/g;

  function highlighted(code) {
    const found = [];
    let last = 0;
    for (const match of code.matchAll(pieces)) {
      const kind = match[1] ? "s" : match[2] ? "c" : match[3] ? "n" : words.has(match[4]) ? "k" : "";
      if (!kind) continue;
      found.push(code.slice(last, match.index), make("span", {class: kind}, match[0]));
      last = match.index + match[0].length;
    }
    return [...found, code.slice(last)];
  }

  function block(code, language) {
    const button = make("button", {type: "button", "aria-label": "Copy code"}, "Copy");
    button.addEventListener("click", () => copy(code, button));
    const pre = make("pre", {tabindex: "0"}, make("code", {"data-language": language}, ...highlighted(code)));
    return make("div", {class: "code"}, pre, button);
  }

  const inlines = /(`+)([^]+?)\1(?!`)|\$\$([^]+?)\$\$|\\\(([^]+?)\\\)|\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d)|\*\*([^]+?)\*\*|\*(?!\s)([^*\n]+?)\*|(?<!\w)_(?!\s)([^_\n]+?)_(?!\w)|~~([^]+?)~~|\[([^\]\n]+)\]\(([^)\s]+)\)|(https?:\/\/[^\s<>()]+)/;

  function inline(text) {
    const found = [];
    for (let rest = text; rest; ) {
      const match = inlines.exec(rest);
      if (!match) { found.push(rest); break; }
      if (match.index) found.push(rest.slice(0, match.index));
      found.push(made(match));
      rest = rest.slice(match.index + match[0].length);
    }
    return found;
  }

  function made(match) {
    if (match[1]) return make("code", {}, match[2].trim());
    const formula = match[3] || match[4] || match[5];
    if (formula) return mathml(formula, Boolean(match[3]));
    if (match[6]) return make("strong", {}, ...inline(match[6]));
    if (match[7] || match[8]) return make("em", {}, ...inline(match[7] || match[8]));
    if (match[9]) return make("del", {}, ...inline(match[9]));
    const address = match[11] || match[12];
    if (!/^(https?:|mailto:)/i.test(address)) return match[0];
    return make("a", {href: address, rel: "noopener noreferrer", target: "_blank"}, match[10] || address);
  }

  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

  function list(lines) {
    const ordered = /^\s*\d/.test(lines[0]);
    const root = make(ordered ? "ol" : "ul", ordered ? {start: parseInt(lines[0], 10)} : {});
    let item = null, inner = [];
    const close = () => {
      if (item && inner.length) item.append(...blocks(inner));
      inner = [];
    };
    for (const line of lines) {
      const match = /^(\s{0,1})(?:[-*+]|\d+[.)])\s+(.*)$/.exec(line);
      if (match) {
        close();
        item = make("li", {}, ...inline(match[2]));
        root.append(item);
      } else inner.push(line.replace(/^\s{1,4}/, ""));
    }
    close();
    return root;
  }

  function blocks(lines) {
    const found = [];
    let place = 0;
    const take = (test) => {
      const start = place;
      while (place < lines.length && test(lines[place])) place++;
      return lines.slice(start, place);
    };
    while (place < lines.length) {
      const line = lines[place];
      const fence = /^\s*(```+|~~~+)\s*([\w+#.-]*)/.exec(line);
      const heading = /^(#{1,6})\s+(.*)$/.exec(line);
      if (!line.trim()) place++;
      else if (fence) {
        place++;
        const code = take((each) => !each.trim().startsWith(fence[1]));
        place++;
        found.push(block(code.join("\n"), fence[2]));
      } else if (/^\s*(\$\$|\\\[)/.test(line)) {
        const end = /^\s*\$\$/.test(line) ? "$$" : "\\]";
        const text = [];
        let over = false;
        for (let first = true; place < lines.length && !over; first = false, place++) {
          const part = first ? lines[place].replace(/^\s*(\$\$|\\\[)/, "") : lines[place];
          over = part.includes(end);
          text.push(over ? part.slice(0, part.indexOf(end)) : part);
        }
        found.push(mathml(text.join("\n"), true));
      } else if (heading) {
        found.push(make(`h${Math.min(6, heading[1].length + 2)}`, {}, ...inline(heading[2])));
        place++;
      } else if (/^\s*(-{3,}|\*{3,})\s*$/.test(line)) {
        found.push(make("hr"));
        place++;
      } else if (/^\s*>/.test(line)) {
        found.push(make("blockquote", {}, ...blocks(take((each) => /^\s*>/.test(each)).map((each) => each.replace(/^\s*>\s?/, "")))));
      } else if (/^\s{0,3}([-*+]|\d+[.)])\s+/.test(line)) {
        found.push(list(take((each) => /^\s*([-*+]|\d+[.)])\s+/.test(each) || /^\s{2,}\S/.test(each))));
      } else if (line.includes("|") && /^[\s|:-]+$/.test(lines[place + 1] || "") && (lines[place + 1] || "").includes("-")) {
        const head = cells(line);
        place += 2;
        const rows = take((each) => each.includes("|") && each.trim());
        const row = (kind, each) => make("tr", {}, ...cells(each).map((cell) => make(kind, {}, ...inline(cell))));
        found.push(make("table", {tabindex: "0"}, make("thead", {}, row("th", head.join("|"))), make("tbody", {}, ...rows.map((each) => row("td", each)))));
      } else {
        const text = take((each, first) => each.trim() && !/^\s*(```|~~~|#{1,6}\s|>|\$\$|\\\[)/.test(each) && !/^\s{0,3}([-*+]|\d+[.)])\s+/.test(each));
        if (!text.length) text.push(lines[place++]);
        found.push(make("p", {}, ...inline(text.join("\n"))));
      }
    }
    return found;
  }

  return (text) => blocks(text.split("\n"));
})();
