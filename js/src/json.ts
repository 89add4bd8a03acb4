/**
 * Strict JSON: what RFC 8259 and RFC 7493 (I-JSON) both allow. JSON.parse would
 * take the last of two members of one name, halves of surrogate pairs, and
 * nesting without end.
 */

const maxDepth = 16;
const maxMembers = 256;

/** Text that is not JSON as it is taken here. */
export class SyntaxFault extends Error {}

const notJSON = () => new SyntaxFault('not one JSON object (RFC 8259)');

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Returns the text that is encoded in UTF-8. Throws a SyntaxFault where it is not. */
export function utf8(octets: Uint8Array): string {
  try {
    return decoder.decode(octets);
  } catch {
    throw new SyntaxFault('not UTF-8');
  }
}

/**
 * Reads one JSON object and returns its members, their values as JSON text. At
 * most 16 values nest, and at most 256 members are in one object. Throws a
 * SyntaxFault for anything else.
 */
export function members(text: string): Map<string, string> {
  const s = new Scanner(text);
  s.space();
  if (!s.at('{')) throw notJSON();
  const found = new Map<string, string>();
  s.object(found);
  s.space();
  if (s.pos !== text.length) throw notJSON();
  return found;
}

/** Returns the texts of an array's values, and undefined for any other value. The text is one that members returned. */
export function elements(value: string): string[] | undefined {
  if (value[0] !== '[') return undefined;
  const found: string[] = [];
  new Scanner(value).array(found);
  return found;
}

/** Returns the characters of a JSON string, and undefined for any other value. */
export function string(value: string): string | undefined {
  return value[0] === '"' ? (JSON.parse(value) as string) : undefined;
}

/**
 * Returns a value as revocations compare it (docs/protocol.md, section 2), null
 * for what no revocation can name, and undefined for a number that cannot be
 * told from its neighbours.
 */
export function canonical(value: string): string | null | undefined {
  switch (value[0]) {
    case '"': return JSON.parse(value) as string;
    case 't': case 'f': return value;
    case 'n': case '{': case '[': return null;
  }
  const n = Number(value);
  return Math.abs(n) < 2 ** 53 ? String(n) : undefined;
}

/**
 * Takes a number that is not negative apart without rounding: its whole part,
 * which is below 2^53, and the rest, which is exact about being 0 and never 1.
 * Returns undefined for any other value.
 */
export function decimal(value: string): { whole: number; rest: number } | undefined {
  const parts = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(value);
  if (!parts) return undefined;
  const [, sign, integer = '', fraction = '', exponent = '0'] = parts;
  const digits = (integer + fraction).replace(/^0+/, '');
  const point = digits.length - fraction.length + Number(exponent);
  const significant = digits.replace(/0+$/, '');
  if (significant === '') return { whole: 0, rest: 0 };
  if (sign || point > 16) return undefined;
  const whole = point > 0 ? Number(significant.slice(0, point).padEnd(point, '0')) : 0;
  if (whole >= 2 ** 53) return undefined;
  const rest = significant.length > point ? Math.min(Math.max(Number(value) - whole, Number.MIN_VALUE), 0.999999999) : 0;
  return { whole, rest };
}

/** Returns a whole number from 0 to below 2^53, however it is written, and undefined for any other value. */
export function integer(value: string): number | undefined {
  const n = decimal(value);
  return n?.rest === 0 ? n.whole : undefined;
}

const literals = { t: 'true', f: 'false', n: 'null' } as const;
const numberText = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
// Runs of what a string may hold as it stands.
const plainText = /[^"\\\u0000-\u001f]*/y;
const escapeText = /\\(?:["\\/bfnrt]|u([0-9a-fA-F]{4}))/y;

class Scanner {
  pos = 0;
  private depth = 0;

  constructor(private readonly text: string) {}

  at(c: string): boolean {
    return this.text[this.pos] === c;
  }

  private take(c: string): boolean {
    if (!this.at(c)) return false;
    this.pos++;
    return true;
  }

  space(): void {
    while (this.at(' ') || this.at('\t') || this.at('\n') || this.at('\r')) this.pos++;
  }

  private value(): void {
    const c = this.text[this.pos];
    switch (c) {
      case '{': return this.object(new Map());
      case '[': return this.array();
      case '"': return this.quoted();
      case 't': case 'f': case 'n':
        if (!this.text.startsWith(literals[c], this.pos)) throw notJSON();
        this.pos += literals[c].length;
        return;
    }
    if (!this.match(numberText)) throw notJSON();
  }

  private match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.pos;
    const found = pattern.exec(this.text);
    if (found) this.pos = pattern.lastIndex;
    return found;
  }

  object(found: Map<string, string>): void {
    this.enter();
    for (let more = !this.take('}'); more; more = this.more('}')) {
      const start = this.pos;
      if (!this.at('"')) throw notJSON();
      this.quoted();
      const name = JSON.parse(this.text.slice(start, this.pos)) as string;
      this.space();
      if (!this.take(':')) throw notJSON();
      this.space();
      const from = this.pos;
      this.value();
      if (found.has(name)) throw new SyntaxFault('an object has two members of one name');
      found.set(name, this.text.slice(from, this.pos));
      if (found.size > maxMembers) throw new SyntaxFault(`an object has more than ${maxMembers} members`);
    }
    this.depth--;
  }

  array(found?: string[]): void {
    this.enter();
    for (let more = !this.take(']'); more; more = this.more(']')) {
      const start = this.pos;
      this.value();
      found?.push(this.text.slice(start, this.pos));
    }
    this.depth--;
  }

  private enter(): void {
    if (++this.depth > maxDepth) throw new SyntaxFault(`JSON nests deeper than ${maxDepth}`);
    this.pos++;
    this.space();
  }

  private more(bracket: string): boolean {
    this.space();
    if (this.take(bracket)) return false;
    if (!this.take(',')) throw notJSON();
    this.space();
    return true;
  }

  private quoted(): void {
    this.pos++;
    for (;;) {
      this.match(plainText);
      if (this.take('"')) return;
      const unit = this.escape();
      if (unit < 0xd800 || unit > 0xdfff) continue;
      const low = unit < 0xdc00 && this.at('\\') ? this.escape() : 0;
      if (low < 0xdc00 || low > 0xdfff) throw new SyntaxFault('an escape is half of a surrogate pair');
    }
  }

  private escape(): number {
    const found = this.match(escapeText);
    if (!found) throw notJSON();
    return found[1] === undefined ? 0 : parseInt(found[1], 16);
  }
}
