/*
 * The data plane of DMA: readers and pinners of an access, which take no lock, beside unmap and changes of the
 * attachment.
 *
 * Readers and pinners go on for ever, and each may stop at any time between two operations. A pinner keeps its pin as
 * long as it likes, or until the callback tells it to let go. The unmapper removes a mapping of the space X. With
 * ELSEWHERE readers also go to another mapping, which stays; with NESTED they may go to the first from in there, in a
 * section within the section; with STAYS one of them may stay there for ever.
 * The changer attaches, replaces (X and Y), detaches as often as CHANGES says, in any order, and destroys in the end.
 * The searches of `run` go through all interleavings and show that
 *
 * - memory of X is not touched after unmap has returned, by a reader or through a pin;
 * - pins are counted exactly: unmap and detach find none left only if none is, and find out when none is left;
 * - unmap waits for no section elsewhere, and asks or fails for pins alone, not for counts that are backed out;
 * - when detach, replace or destroy return, no thread is in a section or an unpin of the old space, wherever the
 *   section goes; a detach or replace that fails leaves all as it was, and so does an unmap that fails, but that the
 *   mapping stays blocked until a later one;
 * - when destroy has returned, no callback runs or begins;
 * - no wake-up is lost: where a thread waits for another, none of them stops for ever (searched for states in which
 *   nothing goes on), and unmap and destroy return though readers and pinners never pause (searched for cycles, under
 *   weak fairness: a thread that can go on all the time does so some time).
 *
 * Memory. The steps here are sequentially consistent atomics in the code, so interleaving them is the right model of
 * memory; there is nothing to reorder. (reuse.pml has steps that are less, and says what they need.) `leave` is only a
 * release store there. A drain that sees it late waits longer, which is as if the thread had left later.
 *
 * The steps, with the names of the code:
 *
 *   enter, leave    the slot's word, with where the section goes: a reader and a pin to their addresses, an unpin
 *                   nowhere, since the pin holds what it touches
 *   find            left out here: finding none ends like finding a blocked record, which a removed one is (see
 *                   reuse.pml)
 *   check           a load of the record's state word: blocked, or in transition, which is no other case to a reader
 *   touch           memory; checked at the last moment before `leave` or before the pin is given away, since what has
 *                   been released stays so
 *   count           fetchAdd on the state word; the old value says whether the mapping was blocked
 *   back out        fetchSub, and a wake-up at zero. As a pinner checks before it counts, only those can back out
 *                   that an unmap's drain waits for, as long as they say where they go (PIN_NOWHERE). Without the
 *                   check one that tries again and again can keep the count from being zero whenever unmap looks, and
 *                   make it fail without a pin (COUNT_UNCHECKED)
 *   uncount         fetchSub; wakes the space's waiters, with the lock, if the mapping is blocked and the count
 *                   became zero; then takes the pin off the thread's slot; then wakes the access's waiters if it is
 *                   closing
 *   block           fetchOr, under the space's lock, together with the list of accesses to drain; part of the claim
 *   drain           see steps.pml: unmap's of the claimed range, in all accesses; that of a change of everything, in
 *                   its access
 *   ask             the callback, with no lock held, if the access is still on the list and not being destroyed
 *   remove          with the same look at the count, under the lock, that found it zero
 *   close           isClosing := true, then translation := nil; the access has joined its new space by then
 *   open            translation := the new space, then isClosing := false; the access has left the old space by then
 *
 * The budget of unmap and detach is a wait that may end at any time (GIVE_UP), without any the wait has no end.
 * Rounds before the last would ask the same again and are left out. With UNPIN_ELSEWHERE the callback may also take a
 * pin from the device and return it itself, on the thread that unmaps or changes.
 *
 * Not here: rights, holes, pins over several mappings (each counts like one, and undoing them is an uncount in the
 * section that counted), several accesses in a space, consumers, message-backed memory, dirty tracking, and threads
 * that come and go.
 */
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

/* The access. The first two are atomics, its monitor guards the rest. */
byte translation = X;
bool isClosing;
byte attachment = X;
bool isDestroyed;
byte running;                   /* callbacks under way */
bool mutexA;
byte asleepA;

/* Its slots (see steps.pml), and the pins of P0, P1, U, C. Readers have none. */
byte inside, reach, notesU, notesC;
short pins[4];

/* The space X: whether the access is on its list, which its monitor guards. */
bool accessIsInX = true;
bool mutexX;
byte asleepX;

/* The state word of X's mapping, and the pin counts of it and of Y's mapping, which stays. */
bool blocked;
byte count[2];

/*
 * The device: what it has pinned and written down, by pinner, as 1 + space; the pinners that are at it; those that
 * are told to let go.
 */
byte token[2];
byte busy, told;

/*
 * Known to the checks alone: in which space a thread is at work; the pins that count on X's mapping, without the
 * counts that are going to be backed out; that unmap and destroy have returned.
 */
byte at[6] = NONE;
byte pinned;
bool unmapped, destroyed;

/* A section that may touch X's mapping, being there or anywhere; one that goes elsewhere, or nowhere. */
inline enterHere(t) { d_step { inside = inside | BIT(t); reach = reach | BIT(t) } }
inline enter(t)     { inside = inside | BIT(t) }
inline widen(t)     { reach = reach | BIT(t) }
inline leaveSection(t) {
    inside = inside & ~BIT(t);
    reach = reach & ~BIT(t);
    notesU = notesU & ~BIT(t);
    notesC = notesC & ~BIT(t)
}
inline leave(t) { d_step { leaveSection(t); at[t] = NONE } }

/* `unmapped` stays true, so looking late is looking everywhere since the check. */
inline touch(t) { assert(!(at[t] == X && unmapped)) }

/* Unmap's drain of the range of X's mapping. */
inline drainRange(t) {
#ifdef DRAIN_UNTIL_EVEN
    (reach & ~BIT(t)) == 0
#else
#ifdef UNMAP_DRAINS_ALL
    notesU = inside & ~BIT(t);
#else
    notesU = inside & reach & ~BIT(t);
#endif
    notesU == 0
#endif
}

/* The drain of the whole access. */
inline drain(t) {
#ifdef CHANGE_DRAINS_RANGE
    notesC = inside & reach & ~BIT(t);
#else
    notesC = inside & ~BIT(t);
#endif
    notesC == 0
}

/* What a reader does at X's mapping, or at Y's. */
inline readHere(t) {
#ifdef CHECK_BEFORE_ENTER
    at[t] = translation;
    if
    :: at[t] == X && blocked -> at[t] = NONE                    /* check */
    :: else
    fi;
#endif
    enterHere(t);
#ifndef CHECK_BEFORE_ENTER
    at[t] = translation;
    if
    :: at[t] == X && blocked -> at[t] = NONE
    :: else
    fi;
#endif
#ifdef NESTED_RESTARTS
    /* A section within the section that counts on in the same slot: in between it looks as if nobody were inside. */
    d_step { leaveSection(t) };
    enterHere(t);
#endif
    atomic { touch(t); leave(t) }
}

/* At another mapping of the space, which stays; maybe, from in there, at X's mapping in a section within. */
inline readElsewhere(t) {
    enter(t);
    at[t] = translation;
    if
    :: leave(t)
#ifdef STAYS
    :: t == R0 && at[t] != NONE ->
end_staying:
        false
#endif
#ifdef NESTED
    :: at[t] != NONE ->
#ifndef NESTED_KEEPS_REACH
        widen(t);
#endif
        if
        :: translation == NONE -> leave(t)
        :: else ->
            /* The section around keeps the access where it is. */
            assert(translation == NONE || translation == at[t]);
            if
            :: at[t] == X && blocked -> leave(t)
            :: else -> atomic { touch(t); leave(t) }
            fi
        fi
#endif
    fi
}

proctype Reader(byte t) {
    do
    :: break
    :: readHere(t)
#ifdef ELSEWHERE
    :: readElsewhere(t)
#endif
    od
}

inline uncount(t) {
    d_step {
        assert(count[at[t]] > 0);
        count[at[t]]--;
        pinned = pinned - (at[t] == X);
        mustWake = at[t] == X && blocked && count[X] == 0
    }
}

/* Takes back a pin in the space at[t], on the thread t. Its section goes nowhere: the pin holds what it touches. */
inline unpin(t) {
    enter(t);
#ifdef WAKE_BEFORE_UNCOUNT
    if
    :: at[t] == X && blocked && count[X] == 1 -> wake(mutexX, asleepX)
    :: else
    fi;
    uncount(t);
    mustWake = false;
#else
    uncount(t);
    if
#ifdef WAKE_UNLOCKED
    :: mustWake -> asleepX = 0; mustWake = false
#else
    :: mustWake -> wake(mutexX, asleepX); mustWake = false
#endif
    :: else
    fi;
#endif
#ifdef WAKE_BEFORE_PINS
    if
    :: isClosing -> wake(mutexA, asleepA)
    :: else
    fi;
    pins[t - P0]--;
#else
    pins[t - P0]--;
    if
    :: isClosing -> wake(mutexA, asleepA)
    :: else
    fi;
#endif
    leave(t)
}

proctype Pinner(byte t) {
    bool mustWake;
    do
    :: break
    :: d_step {
            true ->
            busy = busy | BIT(t);
#ifndef PIN_NOWHERE
            reach = reach | BIT(t);
#endif
            inside = inside | BIT(t)
        };
        at[t] = translation;
#ifndef COUNT_UNCHECKED
        if
        :: at[t] == X && blocked -> at[t] = NONE                /* check */
        :: else
        fi;
#endif
        if
        :: at[t] == NONE -> leave(t)
        :: else ->
            if
            :: d_step {
                    !(at[t] == X && blocked) -> count[at[t]]++; pinned = pinned + (at[t] == X)      /* count */
                };
                pins[t - P0]++;
                /* Leaves the section and keeps its pin. */
                d_step { leaveSection(t) };
                d_step { touch(t); token[t - P0] = at[t] + 1; at[t] = NONE };
                /* Lets go of its own accord or when told; another thread may have done it then. */
                if
                :: true
                :: true ->
end_holding:        told & BIT(t) || token[t - P0] == 0
                fi;
                if
                :: d_step { token[t - P0] -> at[t] = token[t - P0] - 1; token[t - P0] = 0; touch(t) };
                    unpin(t)
                :: else
                fi
            :: d_step { at[t] == X && blocked -> count[X]++ };
                d_step { count[X]--; mustWake = count[X] == 0 };                        /* back out */
                if
#ifndef BACK_OUT_SILENTLY
                :: mustWake -> wake(mutexX, asleepX)
#endif
                :: else
                fi;
                mustWake = false;
                leave(t)
            fi
        fi;
        d_step { busy = busy & ~BIT(t); told = told & ~BIT(t) }
    od
}

inline takeAndUnpin(p, t) {
    if
    :: d_step { token[p] -> at[t] = token[p] - 1; token[p] = 0; touch(t) }; unpin(t)
    :: else
    fi
}

/* The device's callback, on the thread t: tells the pinners that are at it, or also lets go in their place. */
inline callback(t) {
    d_step { assert(!destroyed); told = told | busy };
#ifdef UNPIN_ELSEWHERE
    takeAndUnpin(0, t);
    takeAndUnpin(1, t);
#endif
    d_step { when(mutexA) -> assert(!destroyed && running > 0); running--; asleepA = 0 }
}

proctype Unmapper() {
    bool mustWake, isDue, isFree, gaveUp, mayGiveUp;
#ifdef GIVE_UP
    mayGiveUp = true;
#endif
    do
    :: unmapped -> break
    :: else ->
        d_step {
            when(mutexX) ->
#ifndef BLOCK_LATE
            blocked = true;                                     /* block */
#endif
#ifdef DRAIN_SKIPS_CHANGING
            isDue = accessIsInX && !isClosing
#else
            isDue = accessIsInX
#endif
        };
#ifndef NO_DRAIN
        if
        :: isDue -> drainRange(U)
        :: else
        fi;
#endif
        isDue = false;
        lock(mutexX);
        if
        :: count[X] == 0 -> isFree = true
        :: else ->
            d_step {
#ifndef COUNT_UNCHECKED
                /* Nobody is asked, and no unmap fails, for a count that is going to be backed out. */
                assert(count[X] == pinned);
#endif
                isDue = accessIsInX;
                mutexX = false
            };
            if
#ifdef NOTICE_UNCHECKED
            :: isDue -> d_step { when(mutexA) -> running++ }
#else
            :: isDue -> d_step { when(mutexA) -> isDue = !isDestroyed && accessIsInX; running = running + isDue }
#endif
            :: else
            fi;
            if
            :: isDue -> callback(U); isDue = false              /* ask */
            :: else
            fi;
            /* The wait of the last round; those before it would but ask again. */
            lock(mutexX);
            do
            :: count[X] == 0 -> isFree = true; break
            :: count[X] != 0 && gaveUp -> break
            :: count[X] != 0 && !gaveUp ->
                sleep(mutexX, asleepX, U);
                if
                :: wakeUp(mutexX, asleepX, U)
                :: d_step { mayGiveUp && when(mutexX) -> mutexX = true; asleepX = asleepX & ~BIT(U); gaveUp = true }
                fi
            od
        fi;
        if
        :: isFree ->
#ifdef BLOCK_LATE
            blocked = true;
#endif
            d_step { unmapped = true; mutexX = false }          /* remove */
        :: else ->
            /* EDEADLOCK. The mapping stays, blocked, until a later unmap succeeds. */
            d_step {
                assert(gaveUp && blocked && count[X] == pinned);
                gaveUp = false;
                mayGiveUp = false;
                mutexX = false
            }
        fi
    od
}

/* Onto the list of the space it goes to, off the list of the one it leaves. Nobody would look at Y's. */
inline join(space) {
    if
    :: space == X -> d_step { when(mutexX) -> accessIsInX = true }
    :: else
    fi
}
inline part(space) {
    if
    :: space == X -> d_step { when(mutexX) -> accessIsInX = false }
    :: else
    fi
}

/* No thread of the device is in a section or an unpin in the space any more, and no pin is left there. */
inline hasLeft(space) {
    d_step {
        assert(at[R0] != space && at[R1] != space && at[P0] != space && at[P1] != space && at[U] != space);
        assert(token[0] != space + 1 && token[1] != space + 1 && count[space] == 0)
    }
}

/* From `from` to `to`. Called with the access's mutex held, which it gives back. */
inline change() {
#ifndef OPEN_BEFORE_JOIN
    join(to);
#endif
    isClosing = true;
    d_step { translation = NONE; mutexA = false };              /* close */
#ifndef NO_FIRST_DRAIN
    drain(C);
#endif
    d_step { when(mutexA) -> running++ };
    callback(C);                                                /* ask */
    lock(mutexA);
    do
    :: true ->
        sum = pins[0];
        sum = sum + pins[1];
#ifdef UNPIN_ELSEWHERE
        sum = sum + pins[2];
        sum = sum + pins[3];
#endif
        if
        :: sum == 0 || gaveUp -> break
        :: else
        fi;
        sum = 0;
        sleep(mutexA, asleepA, C);
        if
        :: wakeUp(mutexA, asleepA, C)
#ifdef GIVE_UP
        :: d_step { !isDestroyed && when(mutexA) -> mutexA = true; asleepA = asleepA & ~BIT(C); gaveUp = true }
#endif
        fi
    od;
    if
    :: sum == 0 ->
#ifndef NO_SECOND_DRAIN
        unlock(mutexA);
        drain(C);
        lock(mutexA);
#endif
        hasLeft(from);
        part(from);
        attachment = to
    :: else ->
        /* EDEADLOCK. All is as it was. */
#ifdef FAILURE_PARTS
        part(from);
#endif
        part(to);
        to = from;
        sum = 0
    fi;
    gaveUp = false;
    translation = to;                                           /* open */
#ifdef OPEN_BEFORE_JOIN
    join(to);
#endif
    assert(attachment == to && accessIsInX == (to == X));
    d_step { isClosing = to == NONE; asleepA = 0; mutexA = false }
}

/* Attaches, replaces and detaches, whatever is possible, and destroys. */
proctype Changer() {
    bool mustWake, gaveUp;
    byte from = NONE, to = NONE, changes = 0;
    short sum;
    do
    :: isDestroyed -> break
    :: else ->
        d_step { when(mutexA) -> mutexA = true; from = attachment };
        if
        :: changes < CHANGES && from != X -> changes++; to = X
        :: changes < CHANGES && from != Y -> changes++; to = Y
        :: changes < CHANGES && from != NONE -> changes++
        :: isDestroyed = true
        fi;
        if
        :: from == NONE -> join(to); attachment = to; translation = to; d_step { isClosing = false; mutexA = false }
        :: else -> change()
        fi;
        from = NONE;
        to = NONE
    od;
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

#ifdef UNMAP_RETURNS
ltl { <> unmapped }
#endif
#ifdef DESTROY_RETURNS
ltl { <> destroyed }
#endif
