/**
 * Read NumPy files (`.npy`): arrays of numbers with one or two dimensions.
 *
 * The format is NEP 1 of NumPy: magic, version, a header that is a Python literal, the samples.
 */

import { fileProblem } from "../base/problem.js";

const MAGIC = "\x93NUMPY";

/** @type {Record<string, (view: DataView, at: number, little: boolean) => number>} */
const READERS = {
  f4: (view, at, little) => view.getFloat32(at, little),
  f8: (view, at, little) => view.getFloat64(at, little),
  i1: (view, at) => view.getInt8(at),
  u1: (view, at) => view.getUint8(at),
  i2: (view, at, little) => view.getInt16(at, little),
  u2: (view, at, little) => view.getUint16(at, little),
  i4: (view, at, little) => view.getInt32(at, little),
  u4: (view, at, little) => view.getUint32(at, little),
  i8: (view, at, little) => Number(view.getBigInt64(at, little)),
  u8: (view, at, little) => Number(view.getBigUint64(at, little)),
};

/**
 * Read the bytes of a NumPy file, shape `(n_samples,)` or `(n_samples, n_leads)`.
 *
 * @param {ArrayBuffer} buffer
 * @param {string} fileName For messages.
 * @param {boolean} [isPart] Whether these are the first bytes of a longer file.
 * @returns {import("./csv.js").SignalTable}
 */
export function parseNpy(buffer, fileName, isPart = false) {
  const { order, type, isFortran, shape, offset } = readHeader(buffer, fileName);
  const read = READERS[type];
  if (!read || shape.length < 1 || shape.length > 2 || shape.includes(0)) {
    throw fileProblem(
      `${fileName} holds no signal`,
      `It must be numbers of shape (samples,) or (samples, leads), it is ${type} of shape ` +
        `(${shape.join(", ")}).`,
    );
  }
  const [nPromised, nLeads = 1] = shape;
  const size = Number(type[1]);
  const nSamples = Math.min(nPromised, Math.floor((buffer.byteLength - offset) / (nLeads * size)));
  if (nSamples < nPromised && !isPart) {
    throw fileProblem(`${fileName} is cut off`, `Its header promises ${nPromised} samples.`);
  }
  if (isPart && isFortran && nLeads > 1) {
    throw fileProblem(`${fileName} is too large for its order`, "Save it row by row (C order).");
  }
  const view = new DataView(buffer, offset);
  const columns = Array.from({ length: nLeads }, (_, lead) =>
    Float64Array.from({ length: nSamples }, (_, sample) => {
      const at = isFortran ? lead * nSamples + sample : sample * nLeads + lead;
      return read(view, size * at, order !== ">");
    }),
  );
  const leads = columns.map((_, lead) => (nLeads === 1 ? "MLII" : `lead${lead + 1}`));
  const bad = columns.find((column) => !column.every(Number.isFinite));
  if (bad) {
    const at = bad.findIndex((value) => !Number.isFinite(value));
    throw fileProblem(`Sample ${at} of ${fileName} is no number`, "It is NaN or infinite.");
  }
  return { leads, hasLeadNames: false, columns, fs: null, units: leads.map(() => null) };
}

/**
 * @param {ArrayBuffer} buffer
 * @param {string} fileName
 */
function readHeader(buffer, fileName) {
  const bytes = new Uint8Array(buffer);
  if (bytes.length < 12 || String.fromCharCode(...bytes.subarray(0, 6)) !== MAGIC) {
    throw fileProblem(`${fileName} is no NumPy file`, "It does not begin as one.");
  }
  const view = new DataView(buffer);
  const start = bytes[6] === 1 ? 10 : 12;
  const length = bytes[6] === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  const text = new TextDecoder("latin1").decode(bytes.subarray(start, start + length));
  const type = /'descr':\s*'([<>|=])([a-z]\d+)'/.exec(text);
  const shape = /'shape':\s*\(([^)]*)\)/.exec(text);
  if (!type || !shape) {
    throw fileProblem(`${fileName} holds no signal`, "It is not an array of plain numbers.");
  }
  return {
    order: type[1],
    type: type[2],
    isFortran: /'fortran_order':\s*True/.test(text),
    shape: (shape[1].match(/\d+/g) ?? []).map(Number),
    offset: start + length,
  };
}
