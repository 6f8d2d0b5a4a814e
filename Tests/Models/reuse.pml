/*
 * Records and nodes of an address space, and their reuse: what a reader, a pinner or another unmapper has found is
 * not made into something else under it.
 *
 * Two addresses, two records, four nodes. One writer maps and unmaps for ever at both addresses, a second one unmaps
 * at the first, readers and pinners go on for ever; each may stop at any time. The searches show that
 *
 * - memory is touched only while its mapping is there, and only through a record that still has the address asked
 *   for;
 * - no record and no node is used anew while a thread can reach it, or holds a pin of it;
 * - two unmaps of one mapping end, and neither removes a mapping that it has not blocked and drained.
 *
 * The steps have the names of the code: enter, find, check, touch, leave, count, back out, uncount, block, drain,
 * ask, remove, sweep, reuse; dataplane.pml has the changes of an access, and says how the steps are to be read. A node
 * has both entries of the space: changing one means a new root, as for a space of one leaf. The directory leads to the
 * same records by another way, whenever a reader chooses it; a miss there falls to the tree. Each address is a range of
 * its own: an unmap drains the sections that go to its address, and no others.
 *
 * What the code has to do for that, besides what dataplane.pml says:
 *
 * - An unmap that let go of the lock (to drain, to ask, to wait) has a claim: it finds the record anew by the address,
 *   and compares the serial number that a record gets with each mapping. The same record at the same address may be
 *   another mapping, even a blocked one, whose readers no drain of this unmap has waited for.
 * - A claim that ends without a removal (BATCH: a mapping claimed together with it has pins) opens the mapping only
 *   when no other unmap has a claim on it, and none has given up on it (GIVE_UP).
 * - What is retired waits for a departure: all sections of the moment when it is listed, those too that go elsewhere,
 *   for every reader passes the nodes. What is retired later is not of that departure.
 * - The sections are listed after what is retired is out of readers' way, in the order that all threads see: a reader
 *   whose section is not listed does not find the old pointer any more. Pointers in nodes and tables are release
 *   stores and acquire loads in the code, and slots are sequentially consistent. That alone does not order the store of
 *   a pointer before the look at a slot; the fence with which a departure begins does. LIST_BEFORE_REMOVAL is what
 *   happens without.
 *
 * Memory of a mapping is gone here as soon as that is removed, a little earlier than in the code. Where the code would
 * take fresh memory for a node or a record, the writer here does nothing, for it is reuse that is searched; and a
 * departure lists whatever is retired, where the code waits until it is worth while.
 *
 * Not here: splitting and joining of nodes, directories of more than one level, claims of several mappings (but for how
 * they end), and spaces with several accesses.
 */
#include "steps.pml"

#define NONE 2                  /* no address */

#define R0 0
#define R1 1
#define P0 2
#define P1 3
#define W0 4
#define W1 5

#ifndef READERS
#define READERS 1
#endif
#ifndef PINNERS
#define PINNERS 1
#endif
#ifndef WRITERS
#define WRITERS 2
#endif

/* The root, one to be built for each writer, and one that readers may still be in. */
#define NODES (WRITERS + 2)

/* Retired, and then listed with a departure, for as long as that is not over. */
mtype:life = { free, live, retired, listed };

/* The space: the tree is one node, whose entries are records, 0 for none; beside it the directory. */
byte entry[NODES * 2];
byte directory[2];
mtype:life node[NODES] = free;  /* but for the root, node 0 */
bool mutexX;
byte asleepX;

/* The records 1 and 2. Memory of a mapping that is not live is gone. */
mtype:life record[3] = free;
bool blocked[3], isStuck[3];
byte claimCount[3], count[3];

/* The slots of the one access: who is inside, who of them may touch which address; the notes of the writers' drains. */
byte inside, reach[2], notes[2];

/* `leaving`: the sections that a departure waits for, and whether there is one. */
byte waited;
bool isLeaving;

/* The device. */
byte busy, told;

/*
 * Known to the checks alone: the address of a record's mapping; which node and which record a thread can reach. And
 * what stands for the serial number of a claim: `claimed` is the record that a writer has a claim on, until that
 * record is used anew.
 */
byte address[3] = NONE;
byte reachedNode[4] = NODES, reached[4];
byte claimed[2];

/* A section that goes to an address; one that goes nowhere. */
inline enterAt(t, a) { inside = inside | BIT(t); reach[a] = reach[a] | BIT(t) }
inline enter(t)      { inside = inside | BIT(t) }
inline leaveSection(t) {
    inside = inside & ~BIT(t);
    reach[0] = reach[0] & ~BIT(t);
    reach[1] = reach[1] & ~BIT(t);
    notes[0] = notes[0] & ~BIT(t);
    notes[1] = notes[1] & ~BIT(t);
    waited = waited & ~BIT(t)
}

/* What was reached by an address is live and has it still. */
inline touch(t, a) { assert(record[reached[t]] == live && address[reached[t]] == a) }

#define NOBODY_IS_IN(n) \
    (reachedNode[R0] != n && reachedNode[R1] != n && reachedNode[P0] != n && reachedNode[P1] != n)

/* What an old root says matters no more when nobody is in it. */
inline forget(n) {
    if
    :: n > 0 && NOBODY_IS_IN(n) -> entry[n * 2] = 0; entry[n * 2 + 1] = 0
    :: else
    fi
}

inline find(t, a) {
    if
    :: reached[t] = directory[a]
    :: true
    fi;
    if
    :: reached[t] == 0 ->
        reachedNode[t] = 0;
        d_step {
            reached[t] = entry[reachedNode[t] * 2 + a];
            n = reachedNode[t];
            reachedNode[t] = NODES;
            forget(n);
            n = 0
        }
    :: else
    fi
}

proctype Reader(byte t) {
    byte a, n;
    do
    :: break
    :: true ->
        if
        :: d_step { a = 0; enterAt(t, 0) }
        :: d_step { a = 1; enterAt(t, 1) }
        fi;
        find(t, a);
        if
        :: reached[t] != 0 && blocked[reached[t]] -> reached[t] = 0         /* check */
        :: else
        fi;
        d_step {
            if
            :: reached[t] -> touch(t, a)
            :: else
            fi;
            leaveSection(t);
            reached[t] = 0;
            a = 0
        }
    od
}

proctype Pinner(byte t) {
    byte a, n;
    bool mustWake;
    do
    :: break
    :: true ->
        if
        :: d_step { a = 0; enterAt(t, 0); busy = busy | BIT(t) }
        :: d_step { a = 1; enterAt(t, 1); busy = busy | BIT(t) }
        fi;
        find(t, a);
        if
        :: reached[t] != 0 && blocked[reached[t]] -> reached[t] = 0         /* check */
        :: else
        fi;
        if
        :: reached[t] == 0 -> d_step { leaveSection(t) }
        :: else ->
            if
            :: d_step { !blocked[reached[t]] -> count[reached[t]]++ };          /* count */
                d_step { leaveSection(t) };
                if
                :: true
                :: true ->
end_holding:        told & BIT(t)
                fi;
                d_step { touch(t, a); enter(t) };
                d_step {                                                        /* uncount */
                    assert(count[reached[t]] > 0);
                    count[reached[t]]--;
                    mustWake = blocked[reached[t]] && count[reached[t]] == 0;
                    reached[t] = 0
                };
                if
                :: mustWake -> wake(mutexX, asleepX)
                :: else
                fi
            :: d_step { blocked[reached[t]] -> count[reached[t]]++ };
                d_step {                                                        /* back out */
                    assert(count[reached[t]] > 0);
                    count[reached[t]]--;
                    mustWake = count[reached[t]] == 0;
                    reached[t] = 0
                };
                if
                :: mustWake -> wake(mutexX, asleepX)
                :: else
                fi
            fi;
            d_step { leaveSection(t); mustWake = false }
        fi;
        d_step { busy = busy & ~BIT(t); told = told & ~BIT(t); a = 0 }
    od
}

/* Unmap's drain of the range of one mapping. */
inline drainRange(w, a) {
    notes[w] = inside & reach[a];
    notes[w] == 0
}

/*
 * Takes a free node, which nobody can reach, for a copy of the root with one other entry, and puts it in the root's
 * place; the old root is retired. The nodes are then numbered anew, so that the root is node 0.
 */
inline replaceRoot(a, r) {
    d_step {
        n = 1;
        do
        :: node[n] == free -> break
        :: else -> n++
        od;
        assert(n < NODES);
        assert(NOBODY_IS_IN(n));
        node[n] = retired;
        entry[n * 2] = entry[0];
        entry[n * 2 + 1] = entry[1];
        for (i : 0 .. 3) {
            if
            :: reachedNode[i] == 0 -> reachedNode[i] = n
            :: else
            fi
        }
        i = 0;
        forget(n);
        entry[a] = r;
        n = 0
    }
}

/* Takes a record that nobody can reach. */
inline reuse(a, r) {
    d_step {
        assert(reached[R0] != r && reached[R1] != r && reached[P0] != r && reached[P1] != r && count[r] == 0);
        record[r] = live;
        address[r] = a;
        if
        :: claimed[0] == r -> claimed[0] = 0
        :: else
        fi;
        if
        :: claimed[1] == r -> claimed[1] = 0
        :: else
        fi
    }
}

#ifdef DEPARTURE_TAKES_ALL
#define IS_OVER(life) (life == listed || life == retired)
#else
#define IS_OVER(life) (life == listed)
#endif

/* Takes back what the departure has listed: its sections are over. */
inline recycle() {
    isLeaving = false;
    n = 1;
    do
    :: n == NODES -> break
    :: n < NODES && IS_OVER(node[n]) -> node[n] = free; n++
    :: n < NODES && !IS_OVER(node[n]) -> n++
    od;
    n = 1;
    do
    :: n == 3 -> break
    :: n < 3 && IS_OVER(record[n]) ->
        record[n] = free;
        address[n] = NONE;
        blocked[n] = false;
        n++
    :: n < 3 && !IS_OVER(record[n]) -> n++
    od;
    n = 0
}

/* A departure: what is retired by now, if anything, and the sections under way. */
inline list(a) {
    n = 1;
    do
    :: n == NODES -> break
    :: n < NODES && node[n] == retired -> node[n] = listed; isLeaving = true; n++
    :: n < NODES && node[n] != retired -> n++
    od;
    n = 1;
    do
    :: n == 3 -> break
    :: n < 3 && record[n] == retired -> record[n] = listed; isLeaving = true; n++
    :: n < 3 && record[n] != retired -> n++
    od;
    n = 0;
#ifdef DEPARTURE_WAITS_FOR_NOBODY
    waited = 0
#else
#ifdef DEPARTURE_IN_RANGE
    waited = (isLeaving -> inside & reach[a] : 0)
#else
#ifdef LIST_BEFORE_REMOVAL
    waited = (isLeaving -> waited : 0)
#else
    waited = (isLeaving -> inside : 0)
#endif
#endif
#endif
}

/*
 * With the lock held, which it gives back: takes back what the last departure has listed, if that is over, and then
 * lists what was retired since. Its sections may be over by the next look.
 */
inline sweep(a) {
    d_step {
        if
        :: isLeaving && waited == 0 -> recycle()
        :: else
        fi;
        if
        :: !isLeaving -> list(a)
        :: else
        fi
    };
    d_step {
        if
        :: isLeaving && waited == 0 -> recycle()
        :: else
        fi;
        mutexX = false
    }
}

/* The mapping that was claimed is still the one at the address. */
#ifdef STALE_RECORD
#define STILL(w) true
#else
#ifdef NO_SERIAL
#define STILL(w) (entry[a] == r)
#else
#ifdef BLOCKED_FOR_SERIAL
#define STILL(w) (entry[a] == r && blocked[r])
#else
#define STILL(w) (entry[a] == r && claimed[w] == r)
#endif
#endif
#endif

/* With the lock held, which it gives back. */
inline endClaim(w) {
    d_step {
        assert(claimCount[r] > 0);
        claimCount[r]--;
#ifdef CLAIM_ENDS_ALONE
        blocked[r] = isStuck[r];
#else
        blocked[r] = claimCount[r] > 0 || isStuck[r];
#endif
        claimed[w] = 0;
        r = 0;
        mutexX = false
    }
}

/* Both begin with the lock held and `r` the record at the address. */
inline unmap(w) {
    if
    :: r == 0 -> unlock(mutexX)
    :: else ->
        d_step { claimed[w] = r; claimCount[r]++; blocked[r] = true; mutexX = false };     /* block */
        drainRange(w, a);
        lock(mutexX);
        do
        :: !STILL(w) -> d_step { claimed[w] = 0; r = 0; mutexX = false }; break
#ifdef BATCH
        /* Another mapping that was claimed together with this one, and is below it, has pins. */
        :: STILL(w) && !hasAsked -> endClaim(w); break
#endif
        :: STILL(w) && count[r] == 0 ->
            claimed[w] = 0;
#ifdef LIST_BEFORE_REMOVAL
            waited = waited | inside;
#endif
            replaceRoot(a, 0);                                                  /* remove */
#ifndef DIRECTORY_KEEPS
            directory[a] = 0;
#endif
            d_step {
#ifdef RECORD_WITHOUT_DEPARTURE
                record[r] = free;
                address[r] = NONE;
                blocked[r] = false;
#else
                record[r] = retired;
#endif
                claimCount[r] = 0;
                isStuck[r] = false;
                r = 0
            };
            sweep(a);
            break
        :: STILL(w) && count[r] != 0 && !hasAsked ->
            unlock(mutexX);
            told = told | busy;                                                 /* ask */
            hasAsked = true;
            lock(mutexX)
        :: STILL(w) && count[r] != 0 && hasAsked ->
            sleep(mutexX, asleepX, W0 + w);
            if
            :: wakeUp(mutexX, asleepX, W0 + w)
#ifdef GIVE_UP
            :: d_step { when(mutexX) -> mutexX = true; asleepX = asleepX & ~BIT(W0 + w) };
                if
                :: STILL(w) -> isStuck[r] = true; endClaim(w); break            /* EDEADLOCK */
                :: else
                fi
#endif
            fi
        od;
        hasAsked = false
    fi
}

inline map(w) {
    if
    :: r != 0 -> d_step { r = 0; mutexX = false }
    :: r == 0 && record[1] != free && record[2] != free -> sweep(a)
    :: r == 0 && (record[1] == free || record[2] == free) ->
        r = (record[1] == free -> 1 : 2);
        reuse(a, r);
        replaceRoot(a, r);
        d_step { directory[a] = r; r = 0 };
        sweep(a)
    fi
}

proctype Writer(byte w) {
    byte a, r, n, i;
    bool hasAsked, isShort;
    do
    :: break
    :: true ->
        if
        :: w == 0 -> a = 1
        :: true
        fi;
        /* Where the code would take fresh memory this does nothing: it is reuse that is searched. */
        d_step {
            when(mutexX) ->
            mutexX = true;
            i = 0;
            n = 1;
            do
            :: n == NODES -> break
            :: n < NODES -> i = i + (node[n] == free); n++
            od;
            isShort = i < WRITERS;
            r = (isShort -> 0 : entry[a]);
            i = 0;
            n = 0
        };
        if
        :: isShort -> isShort = false; sweep(a)
        :: else ->
            if
            :: unmap(w)
            :: w == 0 -> map(w)
            fi
        fi;
        a = 0
    od
}

init {
    atomic {
        record[1] = live;
        address[1] = 0;
        entry[0] = 1;
        directory[0] = 1;
#if READERS > 0
        run Reader(R0);
#endif
#if READERS > 1
        run Reader(R1);
#endif
#if PINNERS > 0
        run Pinner(P0);
#endif
#if PINNERS > 1
        run Pinner(P1);
#endif
        run Writer(0);
#if WRITERS > 1
        run Writer(1);
#endif
    }
}
