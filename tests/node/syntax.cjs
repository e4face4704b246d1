// Prints, for each [language, query] of the JSON on stdin, where its syntax is wrong: null where it is right.
// The grammars are those of Grafana's query editors.
const parsers = {
  loki: require("@grafana/lezer-logql").parser,
  tempo: require("@grafana/lezer-traceql").parser,
};

const faultOf = ([language, query]) => {
  let fault = null;
  parsers[language].parse(query).iterate({
    enter: (node) => {
      if (node.type.isError && fault === null) fault = query.slice(node.from) || "the end";
    },
  });
  return fault;
};

const asked = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(asked.map(faultOf)));
