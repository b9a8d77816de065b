/** torch's standard normal numbers on the CPU, so that a seed is the same face here and in Python. */

const LENGTH = 624;
const OFFSET = 397;

/** Mersenne Twister, as torch.Generator().manual_seed(seed) starts it: only the lowest 32 bits of a seed count. */
class MersenneTwister {
  private readonly words = new Uint32Array(LENGTH);
  private index = LENGTH;

  constructor(seed: number) {
    this.words[0] = seed % 2 ** 32;
    for (let i = 1; i < LENGTH; i++) {
      const last = this.words[i - 1] ^ (this.words[i - 1] >>> 30);
      this.words[i] = Math.imul(1812433253, last) + i;
    }
  }

  /** Return the next whole number from 0 to 2^32 - 1. */
  next(): number {
    if (this.index === LENGTH) this.twist();
    let word = this.words[this.index++];
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  }

  private twist(): void {
    const words = this.words;
    for (let i = 0; i < LENGTH; i++) {
      const joined = (words[i] & 0x80000000) | (words[(i + 1) % LENGTH] & 0x7fffffff);
      words[i] = words[(i + OFFSET) % LENGTH] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    }
    this.index = 0;
  }
}

const BLOCK = 16; // torch fills this many numbers at a time

/** Return what torch.randn(count, generator=torch.Generator().manual_seed(seed)) does, up to the last bit's rounding. */
export function randn(count: number, seed: number): Float32Array {
  const engine = new MersenneTwister(seed);
  return count < BLOCK ? oneByOne(engine, count) : inBlocks(engine, count);
}

function inBlocks(engine: MersenneTwister, count: number): Float32Array {
  const uniform = () => (engine.next() & 0xffffff) / 2 ** 24;
  const numbers = Float32Array.from({ length: count }, uniform);
  for (let start = 0; start + BLOCK <= count; start += BLOCK) toNormal(numbers.subarray(start, start + BLOCK));
  if (count % BLOCK) {
    const last = numbers.subarray(count - BLOCK); // drawn again, as torch does
    for (let i = 0; i < BLOCK; i++) last[i] = uniform();
    toNormal(last);
  }
  return numbers;
}

/** Box-Muller: the first half gives the radius, the second half the angle. */
function toNormal(block: Float32Array): void {
  for (let i = 0; i < BLOCK / 2; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - block[i]));
    const angle = 2 * Math.PI * block[i + BLOCK / 2];
    block[i] = radius * Math.cos(angle);
    block[i + BLOCK / 2] = radius * Math.sin(angle);
  }
}

/** Short tensors: 53-bit uniforms in double precision, two normal numbers from two of them. */
function oneByOne(engine: MersenneTwister, count: number): Float32Array {
  const uniform = () => ((engine.next() & 0x1fffff) * 2 ** 32 + engine.next()) / 2 ** 53;
  const numbers = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const angle = 2 * Math.PI * uniform();
    const radius = Math.sqrt(-2 * Math.log1p(-uniform()));
    numbers[i] = radius * Math.cos(angle);
    if (i + 1 < count) numbers[i + 1] = radius * Math.sin(angle);
  }
  return numbers;
}
