// The peer of the cold-launch benchmark: verify a signature, download while hashing, compare,
// unpack, exec. It is what one would write without mcpfs.
import { createHash, createPublicKey, verify } from "node:crypto";
import { spawn } from "node:child_process";
import { mkdirSync, createWriteStream } from "node:fs";
import { once } from "node:events";
import http from "node:http";

const [base, directory, ...command] = process.argv.slice(2);
const get = (path) => new Promise((resolve, reject) => http.get(new URL(path, base), resolve).on("error", reject));
const text = async (path) => { let all = ""; for await (const part of await get(path)) all += part; return all; };

const { key, statement, signature } = JSON.parse(await text("vlaunch.json"));
const publicKey = createPublicKey({ key: Buffer.from(key, "base64"), format: "der", type: "spki" });
if (!verify(null, Buffer.from(statement), publicKey, Buffer.from(signature, "base64"))) throw new Error("bad signature");
const { sha256, file } = JSON.parse(statement);
mkdirSync(directory, { recursive: true });
const archive = `${directory}/artefact.tar.gz`;
const out = createWriteStream(archive), hash = createHash("sha256");
for await (const part of await get(file)) { hash.update(part); if (!out.write(part)) await once(out, "drain"); }
out.end();
await once(out, "close");
if (hash.digest("hex") !== sha256) throw new Error("bad digest");
const [untarred] = await once(spawn("tar", ["-xzf", archive, "-C", directory], { stdio: "inherit" }), "exit");
if (untarred !== 0) throw new Error("tar failed");
spawn(command[0], command.slice(1), { cwd: directory, stdio: "inherit" }).on("exit", (code) => process.exit(code ?? 1));
