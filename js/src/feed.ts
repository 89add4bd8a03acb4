/** The wire format of the feed, version 1, as docs/protocol.md specifies it. It decodes and encodes; it keeps no state. */
import { recordSize } from './set.js';

export const subprotocol = 'quash.feed.v1';
export const maxMessage = 1 << 20;

export const Kind = {
  hello: 1, claims: 2, keys: 3, records: 4, snapshot: 5, mark: 6, pong: 7, bye: 8, ping: 16, goodbye: 17,
} as const;

/** A message that this version of the format does not have, or that contradicts what came before. Nothing on the connection can be relied on any further. */
export class Fault extends Error {}

/** A position of the log and the digest of the chain there, in hexadecimal. */
export interface Mark {
  readonly position: number;
  readonly digest: string;
}

export interface Hello {
  readonly log: string;
  readonly epoch: number;
  readonly head: number;
  readonly issuer: string;
  readonly secret: Buffer;
  readonly claims: readonly string[];
  readonly keys: string; // the JSON text
  readonly lifetime: number; // milliseconds
  readonly issuers: ReadonlyMap<string, number>; // others that the node knows, with the longest lifetime of their tokens in seconds
  readonly lease: number; // milliseconds
  readonly resumes: boolean;
  readonly reason: string;
}

export interface Pong {
  readonly mark: Mark;
  readonly stamp: number;
  readonly clock: number; // Unix milliseconds
  readonly grant: number; // milliseconds
}

export interface Ping {
  readonly applied: number;
  readonly stamp: number;
  readonly routes: number;
  readonly tolerance: number; // seconds
}

const markSize = 40;
const never = 2 ** 53;

export function viewOf(body: Buffer): DataView {
  return new DataView(body.buffer, body.byteOffset, body.byteLength);
}

function uint64(v: DataView, at: number): number {
  return v.getUint32(at) * 2 ** 32 + v.getUint32(at + 4);
}

function setUint64(b: Buffer, n: number, at: number): void {
  b.writeUInt32BE(Math.floor(n / 2 ** 32), at);
  b.writeUInt32BE(n % 2 ** 32, at + 4);
}

function markAt(body: Buffer): Mark {
  const position = uint64(viewOf(body), 0);
  if (position >= never) throw new Fault(`the node sent position ${position}`);
  return { position, digest: body.toString('hex', 8, markSize) };
}

export function decodeMark(body: Buffer): Mark {
  if (body.length !== markSize) throw new Fault(`the node sent a mark of ${body.length} octets`);
  return markAt(body);
}

export function decodePong(body: Buffer): Pong {
  if (body.length !== markSize + 20) throw new Fault(`the node sent a pong of ${body.length} octets`);
  const v = viewOf(body);
  return { mark: markAt(body), stamp: uint64(v, markSize), clock: uint64(v, markSize + 8), grant: v.getUint32(markSize + 16) };
}

/** Checks that whole records stand in a body from an octet on, and returns them. */
export function decodeRecords(body: Buffer, from = 0): DataView {
  const size = body.length - from;
  if (size <= 0 || size % recordSize !== 0) throw new Fault(`the node sent ${size} octets that are not whole records`);
  return new DataView(body.buffer, body.byteOffset + from, size);
}

/** Reads a records message, whose positions follow each other up to the mark's, from a position on. */
export function decodeLog(body: Buffer, from: number): { mark: Mark; records: DataView } {
  if (body.length < markSize) throw new Fault(`the node sent a records message of ${body.length} octets`);
  const mark = markAt(body);
  const records = decodeRecords(body, markSize);
  for (let i = 0, at = 0; at < records.byteLength; i++, at += recordSize) {
    if (uint64(records, at) !== from + i) throw new Fault(`the node sent record ${uint64(records, at)} where ${from + i} belongs`);
  }
  if (mark.position !== from + records.byteLength / recordSize - 1) throw new Fault(`the node sent records that do not end at ${mark.position}`);
  return { mark, records };
}

/** Checks that records have positions that there can be. */
export function checkPositions(records: DataView, from: number, to: number): void {
  for (let at = from; at < to; at += recordSize) {
    const position = uint64(records, at);
    if (position === 0 || position >= never) throw new Fault(`the node sent a record at position ${position}`);
  }
}

export function encodePing(p: Ping): Buffer {
  const b = Buffer.alloc(23);
  b[0] = Kind.ping;
  setUint64(b, p.applied, 1);
  setUint64(b, p.stamp, 9);
  b.writeUInt16BE(Math.min(p.routes, 0xffff), 17);
  b.writeUInt32BE(Math.ceil(p.tolerance), 19);
  return b;
}

export const goodbye = Buffer.of(Kind.goodbye);
