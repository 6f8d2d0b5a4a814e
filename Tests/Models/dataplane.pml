#include "steps.pml"

#define X    0
#define Y    1
#define NONE 2

#define R0 0
#define R1 1
#define P0 2
#define P1 3
#define U  4
#define C  5

#ifndef READERS
#define READERS 2
#endif
#ifndef PINNERS
#define PINNERS 2
#endif
#ifndef CHANGES
#define CHANGES 0
#endif

/* The access: translation and isClosing are atomics of its own, the rest is guarded by its monitor. */
byte translation = X;
bool isClosing;
byte attachment = X;
bool isDestroyed;
byte running;                       /* callbacks under way */
bool mutexA; byte asleepA;

/* Its slots: section counters (see steps.pml) and pins, the latter for P0, P1, U, C; readers have none. */
byte inside, notesU, notesC;
short pins[4];

/* The space X: its list of accesses, guarded by its monitor. */
bool accessIsInX = true;
bool mutexX; byte asleepX;

/* The record of X's mapping: the state word, a step each; and whether the tree leads to it. */
bool blocked, drained, removed;
/* The pin counts of the state words of X's and Y's mapping. The latter stays for good. */
byte count[2];

/* The device: pins it has written down, by pinner, as 1 + space; and the pinners told to let go. */
byte token[2];
byte told;

/* What no code knows but the checks. `at` is the space a thread is at work in or holds a pin of. */
byte at[6] = NONE;
bool released;                      /* X's memory is gone */
bool unmapped, destroyed;           /* unmap, destroy have returned */

inline enter(t) { inside = inside | BIT(t) }
inline leave(t) {
    d_step {
        inside = inside & ~BIT(t);
        notesU = notesU & ~BIT(t);
        notesC = notesC & ~BIT(t);
        at[t] = NONE
    }
}

inline touch(t) { assert(!(at[t] == X && released)) }

/* Waits until every slot was seen even or has changed since. */
inline drain(notes, t) {
#ifdef DRAIN_UNTIL_EVEN
    (inside & ~BIT(t)) == 0
#else
    notes = inside & ~BIT(t);
    notes == 0
#endif
}

proctype Reader(byte t) {
    do
    :: break
    :: true ->
#ifdef CHECK_BEFORE_ENTER
        at[t] = translation;
        if
        :: at[t] == X && (removed || blocked) -> at[t] = NONE
        :: else
        fi;
        enter(t);
#else
        enter(t);
        at[t] = translation;
        if
        :: at[t] == X && removed -> at[t] = NONE        /* find: none */
        :: else
        fi;
        if
        :: at[t] == X && blocked -> at[t] = NONE        /* check: blocked */
        :: else
        fi;
#endif
#ifdef NESTED_SECTION
        /* A section within a section on the same slot, the counter just counted on: it is even inside. */
        d_step { inside = inside & ~BIT(t); notesU = notesU & ~BIT(t); notesC = notesC & ~BIT(t) };
        inside = inside | BIT(t);
#endif
        touch(t);
        leave(t)
    od
}

/* Takes back one pin of the space at[t], on the thread t. */
inline unpin(t) {
    enter(t);
#ifdef WAKE_BEFORE_UNCOUNT
    if
    :: at[t] == X && blocked && count[X] == 1 -> broadcast(mutexX, asleepX)
    :: else
    fi;
    d_step { assert(count[at[t]] > 0); count[at[t]]-- };
#else
    d_step {
        assert(count[at[t]] > 0);
        count[at[t]]--;
        isLast = at[t] == X && blocked && count[X] == 0
    };
    if
#ifdef WAKE_UNLOCKED
    :: isLast -> asleepX = 0; isLast = false
#else
    :: isLast -> broadcast(mutexX, asleepX); isLast = false
#endif
    :: else
    fi;
#endif
#ifdef CLOSING_LOOKED_AT_EARLY
    isLast = isClosing;
    pins[t - P0]--;
    if
    :: isLast -> broadcast(mutexA, asleepA); isLast = false
    :: else
    fi;
#else
    pins[t - P0]--;
    if
    :: isClosing -> broadcast(mutexA, asleepA)
    :: else
    fi;
#endif
    leave(t)
}

proctype Pinner(byte t) {
    bool isLast, isPinned;
    do
    :: break
    :: true ->
        told = told & ~BIT(t);
        enter(t);
        at[t] = translation;
        if
        :: at[t] == X && removed -> at[t] = NONE        /* find: none */
        :: else
        fi;
#ifndef COUNT_UNCHECKED
        if
        :: at[t] == X && blocked -> at[t] = NONE        /* check: blocked */
        :: else
        fi;
#endif
        if
        :: at[t] == NONE
        :: else ->
            d_step { count[at[t]]++; isPinned = !(at[t] == X && blocked) };       /* count */
            if
            :: isPinned -> pins[t - P0]++
            :: else ->                                                            /* back out */
                d_step { count[X]--; isLast = count[X] == 0 };
                if
#ifndef BACK_OUT_SILENTLY
                :: isLast -> broadcast(mutexX, asleepX)
#endif
                :: else
                fi;
                isLast = false
            fi
        fi;
        if
        :: isPinned ->
            /* Leaves the section, and keeps what it pinned. */
            d_step {
                inside = inside & ~BIT(t);
                notesU = notesU & ~BIT(t);
                notesC = notesC & ~BIT(t);
                isPinned = false
            };
            touch(t);
            d_step { token[t - P0] = at[t] + 1; at[t] = NONE };
            /* Lets go of its own accord, or when told. Another thread may have done it then. */
            if
            :: true
            :: true ->
end_holding:    told & BIT(t) || token[t - P0] == 0
            fi;
            d_step {
                if
                :: token[t - P0] -> at[t] = token[t - P0] - 1; token[t - P0] = 0
                :: else
                fi
            };
            if
            :: at[t] != NONE -> touch(t); unpin(t)
            :: else
            fi
        :: else -> leave(t)
        fi
    od
}

inline takeAndUnpin(p, t) {
    if
    :: d_step { token[p] -> at[t] = token[p] - 1; token[p] = 0 }; touch(t); unpin(t)
    :: else
    fi
}

/* The device's callback, on the thread t: tells the pinners, or lets go in their place. */
inline callback(t) {
    assert(!destroyed);
    told = told | BIT(P0) | BIT(P1);
#ifdef UNPIN_ELSEWHERE
    takeAndUnpin(0, t);
    takeAndUnpin(1, t);
#endif
    assert(!destroyed)
}

proctype Unmapper() {
    bool isLast, isAttached, gaveUp, mayGiveUp;
#ifdef GIVE_UP
    mayGiveUp = true;
#endif
again:
    lock(mutexX);
#ifndef BLOCK_LATE
    blocked = true;
#endif
    isAttached = accessIsInX;
#ifdef DRAIN_SKIPS_CHANGING
    isAttached = isAttached && !isClosing;
#endif
    unlock(mutexX);
#ifndef NO_DRAIN
    if
    :: isAttached && !drained -> drain(notesU, U)
    :: else
    fi;
#endif
    lock(mutexX);
    drained = true;
    do
    :: count[X] == 0 -> break
    :: else ->
        if
        :: gaveUp ->
            /* EDEADLOCK: the mapping stays, blocked; a later unmap succeeds. */
            assert(blocked && !removed && !released);
            unlock(mutexX);
            gaveUp = false;
            mayGiveUp = false;
            goto again
        :: else
        fi;
        isAttached = accessIsInX;
        unlock(mutexX);
        if
        :: isAttached ->
            lock(mutexA);
#ifdef NOTICE_UNCHECKED
            isAttached = true;
#else
            isAttached = !isDestroyed && accessIsInX;
#endif
            running = running + isAttached;
            unlock(mutexA);
            if
            :: isAttached ->
                callback(U);
                lock(mutexA);
                d_step { running--; asleepA = 0; mutexA = false }
            :: else
            fi
        :: else
        fi;
        isAttached = false;
        /* One round's wait. Later rounds only ask again, so that one without an end and one that is given up do. */
        lock(mutexX);
        do
        :: count[X] == 0 || gaveUp -> break
        :: else ->
            sleep(mutexX, asleepX, U);
            if
            :: wakeUp(mutexX, asleepX, U)
            :: atomic { mayGiveUp && !mutexX -> mutexX = true; asleepX = asleepX & ~BIT(U); gaveUp = true }
            fi
        od
    od;
#ifdef BLOCK_LATE
    blocked = true;
#endif
    gaveUp = false;
    removed = true;
    unlock(mutexX);
    released = true;
    unmapped = true
}

/* All of an access's threads but C. */
inline nobodyIsAt(space) {
    assert(at[R0] != space && at[R1] != space && at[P0] != space && at[P1] != space && at[U] != space);
    assert(token[0] != space + 1 && token[1] != space + 1 && count[space] == 0)
}

/* Onto the list of the space it goes to, and off the list of the one it leaves. A list of Y would be looked at by nobody. */
inline joinX() {
    if
    :: to == X -> lock(mutexX); accessIsInX = true; unlock(mutexX)
    :: else
    fi
}
inline leaveX(space) {
    if
    :: space == X -> lock(mutexX); accessIsInX = false; unlock(mutexX)
    :: else
    fi
}

/* Goes from `from` to `to`. Called with the access's mutex held, returns without. */
inline change() {
#ifndef OPEN_BEFORE_JOIN
    joinX();
#endif
    isClosing = true;                       /* close */
    translation = NONE;
    unlock(mutexA);
#ifndef NO_FIRST_DRAIN
    drain(notesC, C);
#endif
    lock(mutexA);                           /* ask */
    running++;
    unlock(mutexA);
    callback(C);
    lock(mutexA);
    d_step { running--; asleepA = 0; mutexA = false };
    lock(mutexA);
    do
    :: true ->
        sum = pins[0];
        sum = sum + pins[1];
        sum = sum + pins[2];
        sum = sum + pins[3];
        if
        :: sum == 0 || gaveUp -> break
        :: else
        fi;
        sum = 0;
        sleep(mutexA, asleepA, C);
        if
        :: wakeUp(mutexA, asleepA, C)
#ifdef GIVE_UP
        :: atomic { !isDestroyed && !mutexA -> mutexA = true; asleepA = asleepA & ~BIT(C); gaveUp = true }
#endif
        fi
    od;
    if
    :: sum == 0 ->
#ifndef NO_SECOND_DRAIN
        unlock(mutexA);
        drain(notesC, C);
        lock(mutexA);
#endif
        nobodyIsAt(from);
        leaveX(from);
        attachment = to
    :: else ->
        /* EDEADLOCK: everything is as before. */
        leaveX(to);
        to = from
    fi;
    sum = 0;
    gaveUp = false;
    assert(attachment == to && accessIsInX == (to == X));
    isClosing = false;                      /* open */
    translation = to;
    d_step { asleepA = 0; mutexA = false }
}

proctype Changer() {
    bool isLast, gaveUp;
    byte from = NONE, to = NONE, changes = 0;
    short sum;

    do
    :: changes < CHANGES && attachment == NONE ->
        /* attach */
        changes++;
        if
        :: to = X
        :: to = Y
        fi;
        lock(mutexA);
        joinX();
        attachment = to;
        translation = to;
        unlock(mutexA);
        to = NONE
    :: isDestroyed -> break
    :: !isDestroyed && attachment != NONE || changes == CHANGES ->
        lock(mutexA);
        if
        :: changes < CHANGES -> changes++; to = 1 - attachment  /* replace */
        :: changes < CHANGES -> changes++                       /* detach */
        :: isDestroyed = true                                   /* destroy */
        fi;
        from = attachment;
        if
        :: from == NONE -> unlock(mutexA)
        :: else -> change()
        fi;
        from = NONE;
        to = NONE
    od;
    /* destroy goes on */
#ifndef DESTROY_WITHOUT_WAIT
    lock(mutexA);
    do
    :: running == 0 -> break
    :: else -> sleep(mutexA, asleepA, C); wakeUp(mutexA, asleepA, C)
    od;
    unlock(mutexA);
#endif
    destroyed = true
}

init {
    atomic {
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
#ifdef UNMAPPER
        run Unmapper();
#endif
#ifdef CHANGER
        run Changer();
#endif
    }
}

#ifdef UNMAP_FINISHES
ltl unmapFinishes { <> unmapped }
#endif
#ifdef DESTROY_FINISHES
ltl destroyFinishes { <> destroyed }
#endif
