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
 * - two unmaps of one mapping end, and neither removes a mapping that was not blocked and drained since it was made.
 *
 * The steps have the names of the code: enter, find, check, touch, leave, count, back out, uncount, block, drain,
 * ask, remove, reuse; dataplane.pml has the changes of an access, and says how the steps are to be read. A node has
 * both entries of the space: changing one means a new root, as for a space of one leaf. The directory leads to the
 * same records by another way, whenever a reader chooses it; a miss there falls to the tree.
 *
 * What the code has to do for that, besides what dataplane.pml says:
 *
 * - An unmap that let go of the lock (to drain, to ask, to wait) finds its record anew by the address, and compares
 *   the serial number that a record gets with each mapping. The same record at the same address may be another
 *   mapping, even a blocked one, whose readers no drain of this unmap has waited for.
 * - A drain that frees retired things has begun after they were retired. The drain before the removal does not do.
 *
 * Not here: splitting and joining of nodes, directories of more than one level, batches of retired things (each
 * writer drains for its own), and spaces with several accesses.
 */
#include "steps.pml"

#define NONE 2                  /* no address */
#define NODES 4                 /* the root, one being built, and one that each writer retired */

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

mtype:life = { free, live, retired };

/* The space: the tree is one node, whose entries are records, 0 for none; beside it the directory. */
byte entry[NODES * 2];
byte root;
byte directory[2];
mtype:life node[NODES] = free;
bool mutexX;
byte asleepX;

/* The records 1 and 2. Memory of a mapping that is not live is gone. */
mtype:life record[3] = free;
bool blocked[3], drained[3];
byte count[3];

/* The slots of the one access, and the notes of the drains of W0 and W1. */
byte inside, notes[2];

/* The device. */
byte busy, told;

/*
 * Known to the checks alone: the address of a record's mapping; which node and which record a thread can reach. And
 * what stands for the serial number that a record gets with each mapping: `claimed` is the record that a writer
 * found, until that record is used anew.
 */
byte address[3] = NONE;
byte reachedNode[4] = NODES, reached[4];
byte claimed[2];

inline enter(t) { inside = inside | BIT(t) }
inline leaveSection(t) { inside = inside & ~BIT(t); notes[0] = notes[0] & ~BIT(t); notes[1] = notes[1] & ~BIT(t) }

/* What was reached by an address is live and has it still. */
inline touch(t, a) { assert(record[reached[t]] == live && address[reached[t]] == a) }

inline find(t, a) {
    reachedNode[t] = NODES;
    if
    :: reached[t] = directory[a]
    :: true
    fi;
    if
    :: reached[t] == 0 ->
        reachedNode[t] = root;
        d_step { reached[t] = entry[reachedNode[t] * 2 + a]; reachedNode[t] = NODES }
    :: else
    fi
}

proctype Reader(byte t) {
    byte a;
    do
    :: break
    :: true ->
        if
        :: d_step { a = 0; enter(t) }
        :: d_step { a = 1; enter(t) }
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
    byte a;
    bool mustWake;
    do
    :: break
    :: true ->
        if
        :: d_step { a = 0; enter(t); busy = busy | BIT(t) }
        :: d_step { a = 1; enter(t); busy = busy | BIT(t) }
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

inline drain(w) {
    notes[w] = inside;
    notes[w] == 0
}

/* Takes a free node, which nobody can reach, for a copy of the root with one other entry. */
inline build(a, r) {
    d_step {
        n = 0;
        do
        :: node[n] == free -> break
        :: else -> n++
        od;
        assert(n < NODES);
        assert(reachedNode[R0] != n && reachedNode[R1] != n && reachedNode[P0] != n && reachedNode[P1] != n);
        node[n] = live;
        entry[n * 2 + a] = r;
        entry[n * 2 + 1 - a] = entry[root * 2 + 1 - a]
    }
}

/* Takes a record that nobody can reach. */
inline reuse(a, r) {
    d_step {
        assert(reached[R0] != r && reached[R1] != r && reached[P0] != r && reached[P1] != r && count[r] == 0);
        record[r] = live;
        address[r] = a;
        blocked[r] = false;
        drained[r] = false;
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

/* The new root is in its place; the old one is retired with the record `r`, if any, until a drain has passed. */
inline publish() {
    d_step { old = root; root = n; node[old] = retired; n = 0 }
}
inline reclaim(w) {
#ifndef REUSE_WITHOUT_DRAIN
    drain(w);
#endif
    d_step {
        when(mutexX) ->
        node[old] = free;
        entry[old * 2] = 0;
        entry[old * 2 + 1] = 0;
        old = 0;
        if
        :: r -> record[r] = free; address[r] = NONE; drained[r] = false; r = 0
        :: else
        fi
    }
}

/* The record that was found is still the one of its mapping. */
#ifdef STALE_RECORD
#define STILL(w) true
#else
#ifdef NO_SERIAL
#define STILL(w) (entry[root * 2 + a] == r)
#else
#ifdef BLOCKED_FOR_SERIAL
#define STILL(w) (entry[root * 2 + a] == r && blocked[r])
#else
#define STILL(w) (entry[root * 2 + a] == r && claimed[w] == r)
#endif
#endif
#endif

inline unmap(w) {
    d_step {
        when(mutexX) ->
        r = entry[root * 2 + a];
        claimed[w] = r;
        isDrained = drained[r];
        if
        :: r -> blocked[r] = true                                               /* block */
        :: else
        fi;
#ifdef DRAINED_EARLY
        drained[r] = r != 0
#endif
    };
    if
    :: r == 0
    :: else ->
        if
        :: !isDrained -> drain(w)
        :: else -> isDrained = false
        fi;
        lock(mutexX);
        if
        :: STILL(w) -> drained[r] = true
        :: else
        fi;
        do
        :: !STILL(w) -> unlock(mutexX); r = 0; break
        :: STILL(w) && count[r] == 0 ->
            claimed[w] = 0;
            build(a, 0);
#ifndef DIRECTORY_KEEPS
            directory[a] = 0;
#endif
            publish();                                                          /* remove */
            d_step { record[r] = retired; mutexX = false };
            reclaim(w);
            break
        :: STILL(w) && count[r] != 0 && !hasAsked ->
            unlock(mutexX);
            told = told | busy;                                                 /* ask */
            hasAsked = true;
            lock(mutexX)
        :: STILL(w) && count[r] != 0 && hasAsked ->
            sleep(mutexX, asleepX, W0 + w);
            wakeUp(mutexX, asleepX, W0 + w)
        od;
        hasAsked = false
    fi;
    claimed[w] = 0
}

inline map(w) {
    d_step {
        when(mutexX) ->
        if
        :: entry[root * 2 + a] -> r = 0
        :: else ->
            if
            :: record[1] == free -> r = 1
            :: record[1] != free && record[2] == free -> r = 2
            :: else -> r = 0
            fi
        fi;
        mutexX = r != 0
    };
    if
    :: r == 0
    :: else ->
        reuse(a, r);
        build(a, r);
        publish();
        d_step { directory[a] = r; r = 0; mutexX = false };
        reclaim(w)
    fi
}

proctype Writer(byte w) {
    byte a, r, n, old;
    bool isDrained, hasAsked;
    do
    :: break
    :: true ->
        if
        :: w == 0 -> a = 1
        :: true
        fi;
        if
        :: unmap(w)
        :: w == 0 -> map(w)
        fi;
        a = 0
    od
}

init {
    atomic {
        node[0] = live;
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
