// A small MCP server: says what it can see of the machine.
const fs = require("node:fs");
const tools = ["note", "look"].map((name) => ({ name, description: name, inputSchema: { type: "object" } }));
const answers = {
  initialize: () => ({ protocolVersion: "2025-06-18", capabilities: { tools: {} }, serverInfo: { name: "notes", version: "1.2.0" } }),
  "tools/list": () => ({ tools }),
  "tools/call": ({ name, arguments: given }) => {
    const seen = { interfaces: fs.readFileSync("/proc/net/dev", "utf8").match(/^ *\w+(?=:)/gm).map((one) => one.trim()) };
    if (name === "look") {
      try {
        seen.read = fs.readFileSync(given.path, "utf8");
      } catch (error) {
        seen.read = error.code;
      }
    }
    return { content: [{ type: "text", text: JSON.stringify(seen) }] };
  },
};
require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { id, method, params } = JSON.parse(line);
  if (id === undefined) return;
  const answer = answers[method];
  const reply = answer ? { result: answer(params) } : { error: { code: -32601, message: "no such method" } };
  process.stdout.write(JSON.stringify({ jsonrpc: "2.0", id, ...reply }) + "\n");
});
