// One ONNX file on onnxruntime-web (WebAssembly) or onnxruntime-node. Stands alone: node and that package.
//
//   node node_session.mjs JOB.json
//
// JOB: {"model", "package": folder of the npm package, "feeds": [{"name", "type", "file"}], "shapes": {input: its shape in
// each run}, "folder", "ready"}. A file holds the values of an input, one run after the other. Each output goes to a file
// of its own in the folder; prints one JSON object.
// Neither package tells which nodes its provider took. The file "ready" is made once the package is there.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int8: Int8Array, uint8: Uint8Array, int16: Int16Array,
  uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array, bool: Uint8Array,
};

async function run(job, found) {
  const require = createRequire(join(job.package, "package.json"));
  const { name, version } = require(join(job.package, "package.json"));
  const ort = require(name);
  found.runtime = `${name} ${version}`;
  writeFileSync(job.ready, "");
  const web = name === "onnxruntime-web";
  if (web) ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "fatal";
  const options = { executionProviders: [web ? "wasm" : "cpu"], intraOpNumThreads: 1, interOpNumThreads: 1 };
  const session = await ort.InferenceSession.create(job.model, options);
  const feeds = job.feeds.map((feed) => {
    const bytes = readFileSync(feed.file);
    const data = new ARRAYS[feed.type](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    return { ...feed, data, read: 0 };
  });
  const outputs = session.outputNames.map((output) => ({ name: output, parts: [], shapes: [] }));
  for (let run = 0; run < job.shapes[feeds[0].name].length; run += 1) {
    const inputs = Object.fromEntries(feeds.map((feed) => {
      const dims = job.shapes[feed.name][run];
      const part = feed.data.slice(feed.read, feed.read + dims.reduce((product, size) => product * size, 1));
      feed.read += part.length;
      return [feed.name, new ort.Tensor(feed.type, part, dims)];
    }));
    const results = await session.run(inputs);
    for (const output of outputs) {
      const tensor = results[output.name];
      output.shapes.push(tensor.dims);
      output.type = tensor.type;
      output.parts.push(Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength));
    }
  }
  const written = outputs.map((output, index) => {
    const file = join(job.folder, `output${index}.bin`);
    writeFileSync(file, Buffer.concat(output.parts));
    return { name: output.name, type: output.type, shapes: output.shapes, file };
  });
  Object.assign(found, { provider: web ? "wasm" : "cpu", nodes: null, left: [], outputs: written });
}

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const log = console.log;
console.log = console.error;
const found = {};
run(job, found).then(
  () => log(JSON.stringify(found)),
  (error) => log(JSON.stringify({ ...found, error: String(error?.message ?? error).split("\n")[0] })),
);
