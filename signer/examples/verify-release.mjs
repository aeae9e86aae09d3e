#!/usr/bin/env node
// A simple client of an mcpfs site, with node:crypto alone:
//   node verify-release.mjs SITE REGISTRY NAME PUBLIC_KEY.pem [OUTPUT]
// SITE: https://… or a folder; REGISTRY: the name in trust.json, since one key may sign for several.
// It believes one release key. What it does not check, and mcpfs does: the signed head
// (freshness, rollback, revocation by others than the site), thresholds and scopes.
import { createHash, createPublicKey, verify } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";

const [site, registry, name, keyFile, output] = process.argv.slice(2);
if (!keyFile || !/^[a-z0-9][a-z0-9._-]{0,63}$/.test(name)) throw new Error("usage: SITE REGISTRY NAME PUBLIC_KEY.pem [OUTPUT]");
const get = async (path) => {
  if (!/^https?:/.test(site)) return readFile(`${site}/${path}`);
  const answer = await fetch(`${site.replace(/\/$/, "")}/${path}`, { redirect: "error" });
  if (!answer.ok) throw new Error(`${path}: HTTP ${answer.status}`);
  return Buffer.from(await answer.arrayBuffer());
};
const refuse = (why) => { console.error(`refused: ${why}`); process.exit(1); };

const entry = JSON.parse(await get(`servers/${name}.json`));
const { payloadType, payload, signatures } = entry.signature;
const body = Buffer.from(payload, "base64");
const pae = Buffer.concat([Buffer.from(`DSSEv1 ${payloadType.length} ${payloadType} ${body.length} `), body]);
const key = createPublicKey(await readFile(keyFile));
if (!signatures.some(({ sig }) => verify(null, pae, key, Buffer.from(sig, "base64")))) refuse("no signature by this key");
const { predicateType, predicate, subject } = JSON.parse(body); // the signed bytes, not the copy beside them
if (predicateType !== "urn:mcpfs:release:v1" || predicate.name !== name) refuse("another statement");
if (predicate.registry !== registry) refuse(`signed for the registry ${JSON.stringify(predicate.registry)}`);
if (entry.status !== "active") refuse(`${entry.status}: ${entry.reason}`);
for (const { platform, sha256 } of [predicate.artefact].flat()) {
  const bytes = await get(`artefacts/${sha256}`);
  const found = createHash("sha256").update(bytes).digest("hex");
  const signed = subject.find((one) => one.name === `artefact/${platform}`)?.digest.sha256;
  if (found !== signed || found !== sha256) refuse(`artefact ${platform} is ${found}, signed is ${signed}`);
  if (output) await writeFile(output, bytes);
  console.log(`ok ${name} ${predicate.version} ${platform} sha256:${found}`);
}
