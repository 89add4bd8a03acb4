/*
 * Leases and confirmation: who may say, and when, that nobody accepts a token any more.
 *
 * The model follows one revocation, p. Positions of the log, what nodes and verifiers have applied, floors and the heads
 * that renewals found are each 0 (below p) or 1 (p or above): the rules compare positions with p and in no other way that
 * could make them stricter, so that what holds here holds for any number of revocations. Where an abstraction is not exact it
 * allows more than the product does, and the README says where.
 *
 * Two nodes, VERIFIERS verifiers with SLOTS connections each, one database. Node 0 is the one that is asked to confirm; by
 * symmetry it stands for every node. Time goes in ticks and only as remaining or elapsed ticks, so that the state space is
 * finite though nothing bounds the run: every process acts as often and as late as it likes.
 *
 * Macros that change the protocol are named in `run`; each breaks one rule, and the check must find it.
 */

#ifndef LEASE
#define LEASE 2			/* ticks */
#endif
#ifndef MARGIN
#define MARGIN 1		/* what is waited beyond a lease where somebody else measures it */
#endif
#ifndef VERIFIERS
#define VERIFIERS 1
#endif
#ifndef SLOTS
#define SLOTS 2			/* connections of a verifier, old ones that still carry messages included */
#endif
#ifndef GRAVES
#define GRAVES 1		/* rows of crashed nodes that lie about at once */
#endif
#ifndef REACH
#define REACH 0
#endif

#define DRIFT 1			/* what two clocks part by in a lease, at most */

/*
 * Clocks. Time is what the fastest clock says. By a slower one a lease lasts longer, up to DRIFT for the whole of it, on the node
 * that grants and on the verifier that relies on it taken together; the worst is that it always does. Whoever waits for somebody
 * else's lease to end may have the fastest clock, which is the worst again.
 */
#define RELY (LEASE + DRIFT)	/* P5, in real time, too */
#define WHOLE (LEASE + MARGIN)
#define CONNECTIONS (VERIFIERS * SLOTS)
#define ROWS (2 + GRAVES)
#define NONE 15

/* event marks what a check of reachability looks for. */
#define event(number, condition) assert(REACH != number || !(condition))

/* ---- The database: the log, and the rows of the nodes ---- */

bit committed;			/* p is in the log */
bit confirmed;			/* somebody was told that nobody accepts what p kills */
byte since;			/* real ticks since the commit, up to RELY */

bit there[ROWS];		/* rows 0 and 1 are those of the running nodes, the others of crashed ones */
bit rowfloor[ROWS];
byte seen[ROWS];		/* ticks of node 0's clock since it saw the row change; NONE: it changed since node 0 looked */

/* ---- Nodes ---- */

mtype = { Down, Joined, Serving };	/* no process; its row is in; it has renewed and serves */
mtype phase[2] = Down;
bit read[2];			/* the node has the log up to p */
bit floor[2];			/* its book's floor */
byte last[2] = RELY;		/* age of the newest renewal that found the log without p; RELY: too old to grant by */
byte pending[2] = NONE;		/* age of a renewal that found the log without p and that the node does not know of yet */
byte rest[2 * VERIFIERS];	/* what it granted on connections that are gone, with the margin; see owed */

/* What node 0 knows as the one who confirms. */
bit looked;			/* every other row has reached p or is dead, by a look after the commit */
byte waited;			/* ticks of its clock since the commit, up to WHOLE */
byte hold;			/* ticks for which it confirms nothing by looking: it started over */

/* ---- Verifiers and their connections ---- */

#define Gone 2			/* the node at the other end crashed */

bit applied[VERIFIERS];		/* it has p */
byte kept[VERIFIERS];		/* the latest deadline of connections that closed without a goodbye, in ticks from now */

/* Slot 0 is the newest connection. */
byte to[CONNECTIONS] = NONE;	/* node; NONE: no connection */
bit closed[CONNECTIONS];	/* by the verifier; what it sent may still arrive */
bit sent[CONNECTIONS];		/* the node has sent p, or need not */
byte age[CONNECTIONS] = NONE;	/* ticks of the verifier's clock since the ping that was not answered; NONE: there is none */
byte left[CONNECTIONS];		/* the verifier's deadline, in ticks from now */
byte owed[CONNECTIONS];		/* what the node's book has for the connection, with the margin, in ticks from now */
byte up[CONNECTIONS];		/* messages in order, the first in the lowest digit to base 4 */
byte down[CONNECTIONS];		/* likewise */
byte pong[CONNECTIONS];		/* what the pong on its way is worth: its grant, less the age of the ping */

#define Ping0 1			/* applied: below p */
#define Ping1 2			/* applied: p */
#define Goodbye 3
#define Record 1
#define Pong 2

#define ANSWERED 14		/* for age: the pong is on its way */

/* ---- Time ---- */

bit asleep;
/* Scratch. done ends every step that used it, so that it is no part of what tells two states apart. */
byte i, j, g;
bit ok, dead;
#define done i = 0; j = 0; g = 0; ok = 0; dead = 0

bit P4_kept;			/* always 0; the name of what an assertion finds broken */
bit P5_kept;

#define OLD(k) ((k) + 1)

#define send(queue, message) queue = (queue == 0 -> message : queue + 4 * message)
#define room(queue) (queue < 4)

/* A verifier that has p accepts nothing that p kills. Its deadlines and what is on the way to it do not matter any more. */
inline apply(v)
{
	applied[v] = 1; kept[v] = 0;
	for (i : 0 .. SLOTS - 1) { j = v * SLOTS + i; left[j] = 0; down[j] = 0; pong[j] = 0; age[j] = NONE; sent[j] = (to[j] != NONE) }
}

inline clear(k)
{
	to[k] = NONE; closed[k] = 0; sent[k] = 0; age[k] = NONE; left[k] = 0; owed[k] = 0; up[k] = 0; down[k] = 0; pong[k] = 0
}

inline move(from, dest)
{
	to[dest] = to[from]; closed[dest] = closed[from]; sent[dest] = sent[from]; age[dest] = age[from]; left[dest] = left[from];
	owed[dest] = owed[from]; up[dest] = up[from]; down[dest] = down[from]; pong[dest] = pong[from]; clear(from)
}

#define is_first(k) ((k) % SLOTS == 0)
#define verifier_of(k) ((k) / SLOTS)
#define rest_of(k) rest[verifier_of(k) * 2 + to[k]]

/* What is shorter than what holds anyway changes nothing and is dropped, which keeps the state space small. */
inline weigh(k)
{
	if
	:: left[k] <= kept[verifier_of(k)] -> left[k] = 0
	:: else
	fi;
#ifndef FROM_RECEIPT
	if
	:: age[k] == ANSWERED && (pong[k] <= left[k] || pong[k] <= kept[verifier_of(k)]) ->
		age[k] = NONE; pong[k] = 0; down[k] = (down[k] == Pong -> 0 : Record)
	:: else
	fi;
#endif
	if
	:: to[k] < Gone && owed[k] <= rest_of(k) -> owed[k] = 0
	:: else
	fi
}

/* A connection is forgotten once nothing of it can arrive. A closed connection gives nothing back. */
inline forget(k)
{
	if
	:: to[k] < Gone ->
#ifdef CLOSED_IS_GOODBYE
		owed[k] = 0; settle(to[k])
#else
		rest_of(k) = (owed[k] > rest_of(k) -> owed[k] : rest_of(k))
#endif
	:: else
	fi;
	clear(k);
#if SLOTS == 2
	if
	:: is_first(k) && to[OLD(k)] != NONE -> move(OLD(k), k)
	:: else
	fi
#endif
}

/* A node that started over may owe what it does not know of. */
#ifdef HOLD_FLOOR
#define HELD(n) (n == 0 && hold > 0)
#else
#define HELD(n) false
#endif

/* The floor rises when the node has p and so has every holder of its leases. It never falls. */
inline settle(n)
{
#ifdef NO_LOOKS
	skip
#else
	ok = (phase[n] == Serving && read[n] && !HELD(n));
	for (j : 0 .. CONNECTIONS - 1) { ok = ok && !(to[j] == n && owed[j] > 0) }
	for (j : 0 .. VERIFIERS - 1) { ok = ok && rest[j * 2 + n] == 0 }
	if
	:: ok -> floor[n] = 1; below(n)
	:: else
	fi
#endif
}

/* Below its floor a node grants nothing, so that what it could grant by does not matter any more. */
inline below(n)
{
#if !defined(NO_FLOOR) && REACH == 0
	last[n] = RELY
#else
	skip
#endif
}

/* The node's row changed. */
inline touch(n)
{
	if
#ifndef NO_LOOKS
	:: !confirmed -> rowfloor[n] = floor[n]; seen[n] = (n == 0 || floor[n] -> 0 : NONE)
#endif
	:: else	/* nobody looks any more */
	fi
}

/* What a node has in memory is lost. */
inline lose(n)
{
	phase[n] = Down; read[n] = 0; floor[n] = 0; last[n] = RELY; pending[n] = NONE;
#ifdef SNAPSHOT
	unwritten[n] = 0;
#endif
#if REACH == 5
	stands[n] = 0;
#endif
#ifdef BY_SENT
	newest[n] = RELY;
#endif
	for (i : 0 .. VERIFIERS - 1) { rest[i * 2 + n] = 0 }
	for (i : 0 .. CONNECTIONS - 1) {
		if
		:: to[i] == n -> owed[i] = 0
		:: else
		fi
	}
	if
	:: n == 0 -> looked = 0; waited = 0; hold = 0; for (i : 1 .. ROWS - 1) { seen[i] = (there[i] && !confirmed -> NONE : 0) }
	:: else
	fi
}

/* The process ends: what was on the way to it is lost, what it sent may still arrive. */
inline exit(n)
{
	lose(n);
	for (i : 0 .. CONNECTIONS - 1) {
		if
		:: to[i] == n && closed[i] -> clear(i)
		:: to[i] == n && !closed[i] -> to[i] = Gone; up[i] = 0; sent[i] = 0; closed[i] = 0
		:: else
		fi
	}
#if SLOTS == 2
	for (i : 0 .. VERIFIERS - 1) {
		if
		:: to[i * SLOTS] == NONE && to[i * SLOTS + 1] != NONE -> move(i * SLOTS + 1, i * SLOTS)
		:: else
		fi
	}
#endif
}

/* A crashed node leaves its row. One that has reached p holds nobody up. */
inline bury(n)
{
#if !defined(ROWS_FORGOTTEN) && !defined(NO_LOOKS)
	if
	:: there[n] && !rowfloor[n] && !confirmed ->
		i = 2;
		do
		:: i < ROWS && there[i] -> i++
		:: else -> break
		od;
		there[i] = 1; seen[i] = (n == 0 -> NONE : seen[n]); rowfloor[i] = 0
	:: else
	fi;
#endif
	there[n] = 0; rowfloor[n] = 0; seen[n] = 0
}

#ifdef ROW_WITH
#define MISSES_ROW(n) (phase[n] == Serving)
#define HAS_ROW(n) (there[n] || phase[n] == Joined)	/* it inserts it */
#else
#define HAS_ROW(n) there[n]
#define MISSES_ROW(n) true
#endif
#ifdef ROW_LOST
#define MAY_CRASH(n) there[n]	/* or nobody would know: that is what epochs are for */
#else
#define MAY_CRASH(n) true
#endif
#ifdef SNAPSHOT
#define UNWRITTEN(n) unwritten[n]
#else
#define UNWRITTEN(n) false
#endif

#ifdef SNAPSHOT
bit unwritten[2];		/* the renewal has read the log; what it writes is not visible yet */
#endif
#ifdef BY_SENT
byte newest[2] = RELY;		/* age of the newest renewal, whatever it found */
#endif
#if REACH == 5
bit stands[2];			/* a renewal has found p */
#endif

/* A renewal came back: the node may grant until a lease after it began. */
inline renewed(n)
{
#ifdef LEASE_FROM_END
	last[n] = 0;
#else
	last[n] = pending[n];
#endif
	pending[n] = NONE
}

proctype node(byte n)
{
end:	do
	/* First the row, and its commit. */
	:: atomic { phase[n] == Down -> d_step {
#if !defined(ROW_AFTER) && !defined(ROW_WITH)
		there[n] = !confirmed; touch(n);
#endif
		phase[n] = Joined } }

	/* A renewal: a transaction that changes the row, writes the floor and reads the log. It began no later than it read. */
#ifndef SNAPSHOT
	:: atomic { phase[n] != Down && pending[n] == NONE -> d_step {
		if
#ifdef ROW_AFTER
		:: phase[n] == Joined ->
#else
		:: confirmed || HAS_ROW(n) -> there[n] = !confirmed; touch(n);
#endif
			if
#ifdef UNAPPLIED
			:: !committed || phase[n] == Serving -> pending[n] = 0
#else
			:: !committed -> pending[n] = 0
#endif
			:: else ->
				if
				/* The floor is the head of the first renewal. */
				:: phase[n] == Joined -> phase[n] = Serving; floor[n] = !HELD(n)
				:: else
				fi
			fi;
#ifdef BY_SENT
			newest[n] = 0;
#endif
#if REACH == 5
			stands[n] = committed;
#endif
#ifndef PENDING
			if
			:: pending[n] != NONE && !floor[n] -> phase[n] = Serving; renewed(n)
			:: else -> pending[n] = NONE
			fi
#endif
		/* The row is gone: the node starts over as another one. */
		:: else -> lose(n);
#ifndef NO_HOLD
			hold = (n == 0 && !confirmed -> WHOLE : hold);
#endif
		fi; done } }
#else
	/* The same where the database does not order the transaction with others: what it wrote shows later than it read. */
	:: atomic { phase[n] != Down && pending[n] == NONE && there[n] -> d_step {
		if
		:: !committed -> pending[n] = 0; unwritten[n] = 1
		:: else -> touch(n);
			if
			:: phase[n] == Joined -> phase[n] = Serving; floor[n] = 1
			:: else
			fi
		fi } }
#ifdef ROW_WITH
	:: atomic { phase[n] == Joined && !there[n] && pending[n] == NONE && !committed -> d_step { pending[n] = 0; unwritten[n] = 1 } }
	:: atomic { phase[n] == Joined && !there[n] && unwritten[n] -> d_step { there[n] = !confirmed; touch(n); unwritten[n] = 0 } }
#endif
	:: atomic { unwritten[n] && there[n] -> d_step { touch(n); unwritten[n] = 0 } }
	:: atomic { phase[n] != Down && !there[n] && !confirmed && (unwritten[n] || pending[n] == NONE) && MISSES_ROW(n) -> d_step { lose(n); done } }
#endif

	/* The node learns of the renewal. After the first it serves. */
#if defined(PENDING) || defined(SNAPSHOT)
	:: atomic { pending[n] != NONE && !UNWRITTEN(n) -> d_step {
		phase[n] = Serving;
		if
		:: !floor[n] -> renewed(n)
		:: else -> pending[n] = NONE; below(n)
		fi } }
#endif

#ifdef ROW_AFTER
	:: atomic { phase[n] == Serving && !there[n] && !confirmed -> d_step { there[n] = 1; touch(n) } }
#endif

	/* It reads the log: a read between renewals delivers records sooner and counts for nothing else. */
	:: atomic { phase[n] == Serving && committed && !read[n] -> d_step { read[n] = 1; settle(n); done } }

	/* It crashes; the next process is another node. */
	:: atomic { phase[n] != Down && MAY_CRASH(n) && (confirmed || rowfloor[n] || !there[n] || (GRAVES > 0 && !there[ROWS - 1])) ->
		d_step { bury(n); exit(n); done } }

#ifndef NO_LOOKS
	/* It stops in order: once nobody holds a lease of its, it grants nothing any more, takes its row out, and ends. */
	:: atomic { phase[n] == Serving && there[n] && !HELD(n) -> d_step {
		ok = 1;
		for (j : 0 .. CONNECTIONS - 1) { ok = ok && !(to[j] == n && owed[j] > 0) }
		for (j : 0 .. VERIFIERS - 1) { ok = ok && rest[j * 2 + n] == 0 }
		if
#ifdef STOPS_EARLY
		:: true ->
#else
		:: ok ->
#endif
			there[n] = 0; rowfloor[n] = 0; seen[n] = 0;
#ifdef SERVES_ON
			pending[n] = NONE
#else
			exit(n)
#endif
		:: else
		fi; done } }
#endif
	od
}

/* The revoke that waits, at node 0. */
proctype revoke()
{
end:	do
	:: atomic { !committed -> d_step { committed = 1 } }

#ifndef NO_LOOKS
	/* A look at the rows. Those made before only measure how long a row was unchanged. */
	:: atomic { phase[0] != Down && !confirmed && !looked -> d_step {
		ok = 1; dead = 0;
		for (i : 1 .. ROWS - 1) {
			if
			:: there[i] ->
				if
				:: seen[i] == NONE -> seen[i] = 0
				:: else
				fi;
				if
				:: rowfloor[i]
				:: !rowfloor[i] && seen[i] >= WHOLE -> dead = committed;
#ifdef TAKE_OUT
					there[i] = 0; seen[i] = 0
#endif
				:: else -> ok = 0
				fi
			:: else
			fi
		}
#ifdef LOOKS_EARLY
		looked = ok;
#else
		looked = (ok && committed);
#endif
		event(2, looked && dead && floor[0]); done } }

	/* Anyone may take out a dead row. Its node, where it lives after all, finds it gone and starts over. */
	:: atomic { phase[0] != Down && !confirmed && there[1] && seen[1] != NONE && seen[1] >= WHOLE -> d_step { there[1] = 0; seen[1] = 0; rowfloor[1] = 0 } }
#if GRAVES > 0
	:: atomic { phase[0] != Down && !confirmed && there[2] && seen[2] != NONE && seen[2] >= WHOLE -> d_step { there[2] = 0; seen[2] = 0; rowfloor[2] = 0 } }
#endif
#if GRAVES > 1
	:: atomic { phase[0] != Down && !confirmed && there[3] && seen[3] != NONE && seen[3] >= WHOLE -> d_step { there[3] = 0; seen[3] = 0; rowfloor[3] = 0 } }
#endif

#endif
	/* Confirmed by looking, or by time alone. Then nobody needs to look at anything. */
	:: atomic { committed && !confirmed && phase[0] != Down && ((looked && floor[0] && hold == 0) || waited == WHOLE) -> d_step {
		event(1, looked && floor[0] && there[1] && rowfloor[1] && applied[0]);
		event(3, waited == WHOLE && !(looked && floor[0]));
		looked = 0; waited = 0; hold = 0; since = 0;
		for (i : 0 .. ROWS - 1) { there[i] = 0; seen[i] = 0; rowfloor[i] = 0 }
		confirmed = 1; done } }

#ifdef ROW_LOST
	/* The database was put back to a time before the row: node 0's goes without a rule that allows it. */
	:: atomic { there[0] -> d_step { there[0] = 0 } }
#endif
	od
}

/* ---- The two ends of a connection ---- */

#if REACH == 5
#define REACH_STANDS(n) (stands[n] && !applied[verifier_of(k)])
#else
#define REACH_STANDS(n) false
#endif

/* A ping acknowledges for the whole process, and asks for a lease for its connection. */
inline ping0(k, n)
{
	if
	:: to[k] == n ->
		event(4, floor[n] && last[n] < RELY && !applied[verifier_of(k)]);
		g = RELY - last[n];
#ifdef BY_SENT
		if
		:: read[n] || sent[k] -> g = RELY - newest[n]
		:: else
		fi;
#endif
		if
#ifdef NO_FLOOR
		:: g > 0 ->
#else
		:: g > 0 && !floor[n] ->
#endif
			event(5, REACH_STANDS(n));
#ifndef NO_LOOKS
			g = g + MARGIN - DRIFT; owed[k] = (g > owed[k] -> g : owed[k]); g = g + DRIFT - MARGIN;
#endif
			if
			:: !closed[k] && !applied[verifier_of(k)] ->
#ifdef PONG_FIRST
				send(down[k], Pong);
#endif
#ifdef BY_SENT
				if
				:: read[n] && !sent[k] -> sent[k] = 1; send(down[k], Record)
				:: else
				fi;
#endif
#ifndef PONG_FIRST
				send(down[k], Pong);
#endif
				/* The lease counts from when the ping was sent. */
#ifdef FROM_RECEIPT
				pong[k] = g;
#else
				pong[k] = (g > age[k] -> g - age[k] : 0);
#endif
				age[k] = ANSWERED
			:: else
			fi;
			weigh(k)
		/* A pong that grants nothing changes nothing: as if it had arrived. */
		:: else -> age[k] = NONE
		fi
	:: else
	fi
}

inline ping1(k, n)
{
	if
	:: to[k] == n ->
		for (i : 0 .. CONNECTIONS - 1) {
			if
#ifdef BY_NAME
			:: to[i] == n -> owed[i] = 0
#else
			:: to[i] == n && verifier_of(i) == verifier_of(k) -> owed[i] = 0
#endif
			:: else
			fi
		}
#ifdef BY_NAME
		for (i : 0 .. VERIFIERS - 1) { rest[i * 2 + n] = 0 }
#else
		rest_of(k) = 0;
#endif
		settle(n)
	:: else
	fi
}

/* A goodbye gives back the connection's grants and no others. */
inline goodbye(k, n)
{
	if
	:: to[k] == n ->
#if SLOTS == 2
		event(6, is_first(k) == 0 && to[k - 1] < Gone && to[k - 1] != n && left[k - 1] > 0 && owed[k] > 0);
#endif
		owed[k] = 0;
#ifdef GOODBYE_BY_PROCESS
		for (i : 0 .. SLOTS - 1) {
			j = verifier_of(k) * SLOTS + i;
			if
			:: to[j] == n -> owed[j] = 0
			:: else
			fi
		}
		rest_of(k) = 0;
#endif
		settle(n)
	:: else
	fi
}

/* STEADY: the second verifier keeps its connection while the node lives. */
#ifdef STEADY
#define LEAVES(v) (v == 0)
#else
#define LEAVES(v) true
#endif

proctype connection(byte k; byte v)
{
	byte message;
end:	do
	/* The verifier connects, to any node that serves. It may have an old connection, open or with messages on the way. */
#if SLOTS == 2
	:: atomic { is_first(k) && (to[k] == NONE || to[OLD(k)] == NONE) && (phase[0] == Serving || phase[1] == Serving) ->
		if
		:: to[k] != NONE -> d_step { move(k, OLD(k)); done }
		:: else
		fi;
#else
	:: atomic { to[k] == NONE && (phase[0] == Serving || phase[1] == Serving) ->
#endif
		if
		:: phase[0] == Serving -> to[k] = 0
		:: phase[1] == Serving -> to[k] = 1
		fi;
		sent[k] = applied[v] }

	/* It pings: what it has applied, and the moment. One ping at a time wants its pong. */
	:: atomic { to[k] < Gone && !closed[k] && room(up[k]) && !applied[v] && age[k] == NONE ->
		d_step { send(up[k], Ping0); age[k] = 0 } }
	:: atomic { to[k] < Gone && !closed[k] && room(up[k]) && applied[v] && up[k] != Ping1 -> d_step { send(up[k], Ping1) } }

	/* It receives what the node sent, in order. */
	:: atomic { down[k] != 0 && !closed[k] -> d_step {
		message = down[k] % 4; down[k] = down[k] / 4;
		if
		:: message == Record -> apply(v)
		:: else -> left[k] = (pong[k] > left[k] -> pong[k] : left[k]); pong[k] = 0; age[k] = NONE; weigh(k)
		fi;
		message = 0; done } }

	/* It drops the connection's deadline, and then says goodbye and closes. */
	:: atomic { to[k] < Gone && !closed[k] && room(up[k]) && LEAVES(v) -> d_step {
#ifdef DEADLINE_BY_PROCESS
		kept[v] = (left[k] > kept[v] -> left[k] : kept[v]);
#endif
		left[k] = 0; age[k] = NONE; down[k] = 0; pong[k] = 0; closed[k] = 1;
		send(up[k], Goodbye); done } }

	/* It closes, or finds the connection broken: its deadline stays. What it has sent may still arrive. */
	:: atomic { to[k] != NONE && !closed[k] && (to[k] == Gone || LEAVES(v)) -> d_step {
		kept[v] = (left[k] > kept[v] -> left[k] : kept[v]);
		left[k] = 0; age[k] = NONE; down[k] = 0; pong[k] = 0; closed[k] = 1;
		if
		:: to[k] == Gone || up[k] == 0 -> forget(k)
		:: else
		fi; done } }

	/* What is on the way from a closed connection is lost. */
	:: atomic { to[k] < Gone && closed[k] -> d_step { forget(k); done } }

	/* The node sends p. */
#ifndef BY_SENT
	:: atomic { to[k] < Gone && !closed[k] && !sent[k] && read[to[k]] -> d_step { sent[k] = 1; send(down[k], Record) } }
#endif

	/* The node receives. */
	:: atomic { to[k] < Gone && up[k] != 0 && phase[to[k]] == Serving -> d_step {
		message = up[k] % 4; up[k] = up[k] / 4;
		if
		:: message == Ping0 -> ping0(k, 0); ping0(k, 1)
		:: message == Ping1 -> ping1(k, 0); ping1(k, 1)
		:: message == Goodbye -> goodbye(k, 0); goodbye(k, 1)
		fi;
		message = 0;
		if
		:: closed[k] && up[k] == 0 -> forget(k)
		:: else
		fi; done } }
	od
}

#define fresh(v) (kept[v] > 0 || left[(v) * SLOTS] > 0 || left[(v) * SLOTS + SLOTS - 1] > 0)

/* The verifier's process ends and another one starts, which has applied nothing. What the old one was granted is still in the
   books and only delays; here it goes, so that books are as forgetful as they can be. */
proctype verifier(byte v)
{
#ifndef NO_RESTART
end:	do
	:: atomic { applied[v] || fresh(v) || to[v * SLOTS] != NONE -> d_step {
		applied[v] = 0; kept[v] = 0;
		for (i : 0 .. SLOTS - 1) { clear(v * SLOTS + i) }
		rest[v * 2] = 0; rest[v * 2 + 1] = 0;
		settle(0); settle(1); done } }
	od
#else
end:	false
#endif
}

/* ---- Time ---- */

inline down_to_zero(timer) { timer = (timer > 0 -> timer - 1 : 0) }
inline up_to(timer, bound) { timer = (timer < bound -> timer + 1 : timer) }

inline verifier_ticks(v)
{
	down_to_zero(kept[v]);
	for (i : 0 .. SLOTS - 1) {
		j = v * SLOTS + i;
		down_to_zero(left[j]);
		if
		:: age[j] < ANSWERED -> up_to(age[j], RELY)
#ifndef FROM_RECEIPT
		:: age[j] == ANSWERED -> down_to_zero(pong[j])
#endif
		:: else
		fi;
		weigh(j)
	}
}

/* The monotonic clock stands still, and the machine notices by the other clock: nothing from before counts. */
inline verifier_sleeps(v)
{
#ifndef SLEEP_UNNOTICED
	kept[v] = 0;
	for (i : 0 .. SLOTS - 1) {
		j = v * SLOTS + i;
		left[j] = 0; pong[j] = 0; age[j] = (age[j] < ANSWERED -> RELY : age[j]); weigh(j)
	}
#else
	skip
#endif
}

inline node_ticks(n)
{
	up_to(last[n], RELY);
#ifdef BY_SENT
	up_to(newest[n], RELY);
#endif
	if
	:: pending[n] != NONE -> up_to(pending[n], RELY)
	:: else
	fi;
	for (i : 0 .. VERIFIERS - 1) { down_to_zero(rest[i * 2 + n]) }
	for (i : 0 .. CONNECTIONS - 1) {
		if
		:: to[i] == n -> down_to_zero(owed[i])
		:: else
		fi
	}
	if
	:: n == 0 ->
		for (i : 1 .. ROWS - 1) {
			if
			:: there[i] && seen[i] != NONE -> up_to(seen[i], WHOLE)
			:: else
			fi
		}
		down_to_zero(hold);
#ifdef TIMES
		if
		:: committed && !confirmed && phase[0] != Down -> up_to(waited, WHOLE)
		:: else
		fi
#else
		skip
#endif
	:: else
	fi;
	settle(n)
}

inline node_sleeps(n)
{
#ifndef NODE_SLEEP_UNNOTICED
	last[n] = RELY; pending[n] = (pending[n] == NONE -> NONE : RELY)
#else
	skip
#endif
}

/* A machine in a tick runs or sleeps. */
#ifdef NO_SLEEP
#define machine(ticks, sleeps) d_step { ticks; done }
#else
#define machine(ticks, sleeps) if :: d_step { ticks; done } :: !asleep -> d_step { asleep = 1; sleeps; done } fi
#endif

proctype time()
{
end:	do
	:: atomic {
		machine(node_ticks(0), node_sleeps(0));
		machine(node_ticks(1), node_sleeps(1));
		machine(verifier_ticks(0), verifier_sleeps(0));
#if VERIFIERS == 2
		machine(verifier_ticks(1), verifier_sleeps(1));
#endif
#ifdef TIMES
		if
		:: committed && !confirmed -> d_step { up_to(since, RELY) }
		:: else
		fi;
#endif
		asleep = 0 }
	od
}

/* ---- The promises ---- */

/* A verify reads whether the lease holds and then what is revoked, and accepts what p kills where the lease held and p was
   not there. What is applied between the two only refuses, so that a state in which both hold decides. */
#define accepts(v) (fresh(v) && !applied[v])

#define P4_broken(v) (confirmed && accepts(v))
#define P5_broken(v) (since == RELY && accepts(v))

proctype promises()
{
end:	if
	:: atomic { P4_broken(0) -> assert(P4_kept) }
	:: atomic { P5_broken(0) -> assert(P5_kept) }
#if VERIFIERS == 2
	:: atomic { P4_broken(1) -> assert(P4_kept) }
	:: atomic { P5_broken(1) -> assert(P5_kept) }
#endif
	fi
}

#ifdef REQUESTS
/*
 * The same with a verify in its two steps. A verifier that has p is fresh again once a node answers it, which the rest of the model
 * leaves out: what it accepts does not matter there.
 */
#define renewable(v) (applied[v] && to[(v) * SLOTS] < Gone && phase[to[(v) * SLOTS]] == Serving)
mtype = { Fresh, Idle };
proctype request()
{
	bit before; bit lacked; mtype held = Idle;
end:	do
#ifdef SET_FIRST
	:: atomic { held == Idle && !applied[0] -> before = confirmed; held = Fresh }
	:: atomic { held == Fresh && before && (fresh(0) || renewable(0)) -> assert(P4_kept) }
	:: atomic { held == Fresh -> held = Idle; before = 0 }
#else
	:: atomic { held == Idle && fresh(0) -> before = confirmed; held = Fresh }
	:: atomic { held == Fresh && before && !applied[0] -> assert(P4_kept) }
	:: atomic { held == Fresh -> held = Idle; before = 0 }
#endif
	od
}
#endif

init
{
	atomic {
		run node(0); run node(1); run revoke();
		run verifier(0); run connection(0, 0);
#if SLOTS == 2
		run connection(1, 0);
#endif
#if VERIFIERS == 2
		run verifier(1); run connection(SLOTS, 1);
#if SLOTS == 2
		run connection(SLOTS + 1, 1);
#endif
#endif
#ifdef REQUESTS
		run request();
#endif
		run time(); run promises()
	}
}
