import { defaultLease, patience } from './lease.js';

const retryFirst = 20;
const retryLast = 2_000;

/**
 * Says which address is tried next, how long to wait before that, and how long to
 * try, in milliseconds. Addresses are taken in turn. Where all of them failed, the
 * next round comes after a wait, which doubles from round to round.
 *
 * So does the time that is given to each, where one was silent for as long. At
 * first all together have what is left of a lease when a silent node is left, so
 * that those that are dead do not use it up; and a network that is slower than
 * that is reached in the end.
 */
export class Round {
  private readonly addresses: readonly URL[];
  private at = 0; // the address whose turn it is
  private left: number; // addresses of this round, with the one at
  private wait = retryFirst; // after this round
  private time = 0; // for each address of it; 0: as the lease says
  private silent = false; // one of them took longer

  /** The order is random, so that many verifiers spread over the nodes, and when one node ends, over the others. */
  constructor(addresses: readonly URL[]) {
    this.addresses = addresses.map((url) => ({ url, order: Math.random() })).sort((a, b) => a.order - b.order).map(({ url }) => url);
    this.left = addresses.length;
  }

  /** The address whose turn it is, and how long to wait for its node to say hello where leases are as long as this. */
  now(lease: number): { address: URL; within: number } {
    this.time ||= patience(lease) / this.addresses.length;
    return { address: this.addresses[this.at]!, within: this.time };
  }

  /**
   * Passes the turn on, and returns how long to wait first. An address was of use
   * where the verifier came in step; a new round then begins behind it. It was
   * silent where its time was up.
   */
  next(ofUse: boolean, silent: boolean): number {
    this.at = (this.at + 1) % this.addresses.length;
    this.silent ||= silent;
    if (--this.left > 0 && !ofUse) return 0;
    if (ofUse) [this.wait, this.time] = [retryFirst, 0];
    else if (this.silent) this.time = Math.min(2 * this.time, patience(defaultLease));
    this.left = this.addresses.length;
    this.silent = false;
    const { wait } = this;
    this.wait = Math.min(2 * wait, retryLast);
    return wait / 2 + Math.random() * wait / 2;
  }
}
