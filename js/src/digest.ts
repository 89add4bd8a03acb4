import { createHash } from 'node:crypto';

/** The first four words of SHA-256 over a secret and texts, each behind its length in octets (docs/protocol.md, section 2.1). */
export function hash(secret: Buffer, texts: readonly string[]): [number, number, number, number] {
  const h = createHash('sha256').update(secret);
  const length = Buffer.alloc(4);
  for (const text of texts) {
    length.writeUInt32BE(Buffer.byteLength(text));
    h.update(length).update(text, 'utf8');
  }
  const sum = h.digest();
  return [sum.readUInt32BE(0), sum.readUInt32BE(4), sum.readUInt32BE(8), sum.readUInt32BE(12)];
}
