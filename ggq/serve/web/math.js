// LaTeX to MathML, the part of it that answers are made of. What is not known stays as it is written.
const mathml = (() => {
  const space = "http://www.w3.org/1998/Math/MathML";
  const letters = {alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ϵ", varepsilon: "ε", zeta: "ζ", eta: "η", theta: "θ",
    iota: "ι", kappa: "κ", lambda: "λ", mu: "μ", nu: "ν", xi: "ξ", pi: "π", rho: "ρ", sigma: "σ", tau: "τ", upsilon: "υ", phi: "ϕ",
    varphi: "φ", chi: "χ", psi: "ψ", omega: "ω", Gamma: "Γ", Delta: "Δ", Theta: "Θ", Lambda: "Λ", Xi: "Ξ", Pi: "Π", Sigma: "Σ",
    Phi: "Φ", Psi: "Ψ", Omega: "Ω", ell: "ℓ", infty: "∞", partial: "∂", nabla: "∇", emptyset: "∅", hbar: "ℏ"};
  const signs = {cdot: "⋅", times: "×", div: "÷", pm: "±", mp: "∓", le: "≤", leq: "≤", ge: "≥", geq: "≥", ne: "≠", neq: "≠",
    approx: "≈", equiv: "≡", sim: "∼", propto: "∝", in: "∈", notin: "∉", subset: "⊂", subseteq: "⊆", cup: "∪", cap: "∩", to: "→",
    rightarrow: "→", leftarrow: "←", Rightarrow: "⇒", Leftrightarrow: "⇔", iff: "⇔", implies: "⇒", mapsto: "↦", forall: "∀",
    exists: "∃", neg: "¬", land: "∧", lor: "∨", wedge: "∧", vee: "∨", oplus: "⊕", otimes: "⊗", circ: "∘", ldots: "…", cdots: "⋯",
    dots: "…", mid: "∣", langle: "⟨", rangle: "⟩", lfloor: "⌊", rfloor: "⌋", lceil: "⌈", rceil: "⌉", quad: "\u2003", ",": "\u2009",
    ";": "\u2005", ":": "\u2005", "!": "", "{": "{", "}": "}", "|": "‖", "%": "%", "#": "#", "&": "&", _: "_", $: "$", " ": " "};
  const large = {sum: "∑", prod: "∏", int: "∫", iint: "∬", oint: "∮", bigcup: "⋃", bigcap: "⋂"};
  const names = ["sin", "cos", "tan", "log", "ln", "exp", "min", "max", "lim", "det", "gcd", "arg", "sup", "inf", "mod", "Pr"];
  const accents = {hat: "^", bar: "¯", vec: "→", dot: "˙", tilde: "~", overline: "¯"};
  const boards = {R: "ℝ", N: "ℕ", Z: "ℤ", Q: "ℚ", C: "ℂ", P: "ℙ", E: "𝔼"};
  const make = (name, ...children) => {
    const element = document.createElementNS(space, name);
    element.append(...children);
    return element;
  };

  function parse(source) {
    const tokens = source.match(/\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\s+|[^]/gu) || [];
    let place = 0;
    const skip = () => { while (place < tokens.length && /^\s+$/.test(tokens[place])) place++; };
    const row = (end) => {
      const found = [];
      for (skip(); place < tokens.length && !end.includes(tokens[place]); skip()) found.push(scripts());
      return found;
    };
    const group = () => {
      skip();
      if (tokens[place] !== "{") return place < tokens.length ? atom() : make("mrow");
      place++;
      const found = make("mrow", ...row(["}"]));
      place++;
      return found;
    };
    const raw = () => {
      skip();
      let text = "";
      if (tokens[place] === "{") for (place++; place < tokens.length && tokens[place] !== "}"; place++) text += tokens[place];
      place++;
      return text;
    };
    const scripts = () => {
      const base = atom();
      const limits = base.dataset && base.dataset.large === "1" || base.textContent === "lim";
      let below = null, above = null;
      for (skip(); tokens[place] === "_" || tokens[place] === "^" || tokens[place] === "'"; skip()) {
        const token = tokens[place++];
        if (token === "_") below = group();
        else if (token === "^") above = group();
        else above = make("mo", "′");
      }
      if (below && above) return make(limits ? "munderover" : "msubsup", base, below, above);
      if (below) return make(limits ? "munder" : "msub", base, below);
      return above ? make(limits ? "mover" : "msup", base, above) : base;
    };
    const matrix = (kind) => {
      const table = make("mtable");
      let line = make("mtr");
      while (place < tokens.length) {
        line.append(make("mtd", ...row(["&", "\\\\", "\\end"])));
        const token = tokens[place++];
        if (token === "&") continue;
        table.append(line);
        line = make("mtr");
        if (token !== "\\\\") { raw(); break; }
      }
      const [open, close] = {pmatrix: "()", bmatrix: "[]", vmatrix: "||", cases: "{ "}[kind] || ["", ""];
      return make("mrow", make("mo", open), table, make("mo", close.trim()));
    };
    const command = (name) => {
      if (letters[name]) return make("mi", letters[name]);
      if (large[name]) { const sign = make("mo", large[name]); sign.dataset.large = name.endsWith("int") ? "0" : "1"; return sign; }
      if (name in signs) return make("mo", signs[name]);
      if (names.includes(name)) return make("mi", name);
      if (name === "frac" || name === "dfrac" || name === "tfrac") return make("mfrac", group(), group());
      if (name === "binom") return make("mrow", make("mo", "("), make("mtable", make("mtr", make("mtd", group())), make("mtr", make("mtd", group()))), make("mo", ")"));
      if (name === "sqrt") {
        skip();
        if (tokens[place] !== "[") return make("msqrt", group());
        place++;
        const index = make("mrow", ...row(["]"]));
        place++;
        return make("mroot", group(), index);
      }
      if (accents[name]) return make("mover", group(), make("mo", accents[name]));
      if (["text", "mathrm", "operatorname", "textbf", "mathbf", "mathit", "mathcal"].includes(name)) return make("mtext", raw());
      if (name === "mathbb") { const letter = raw(); return make("mi", boards[letter] || letter); }
      if (name === "left" || name === "right") { skip(); const sign = tokens[place++] || ""; return make("mo", sign === "." ? "" : signs[sign.slice(1)] || sign); }
      if (name === "begin") return matrix(raw());
      if (name === "displaystyle" || name === "limits") return make("mrow");
      return make("mtext", "\\" + name);
    };
    const atom = () => {
      skip();
      const token = tokens[place++];
      if (token === undefined) return make("mrow");
      if (token === "{") { place--; return group(); }
      if (token[0] === "\\") return command(token.slice(1));
      if (/^\d/.test(token)) return make("mn", token);
      return make(/^\p{L}$/u.test(token) ? "mi" : "mo", token === "-" ? "−" : token === "*" ? "∗" : token);
    };
    return row([]);
  }

  return (source, block) => {
    const element = make("math", make("mrow", ...parse(source)));
    if (block) element.setAttribute("display", "block");
    element.setAttribute("aria-label", source);
    return element;
  };
})();
