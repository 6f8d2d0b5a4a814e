/*
 * What the models share: the read sections of one access, and monitors as they are, a mutex and a condition that is
 * only ever broadcast.
 *
 * Sections. A thread that enters stores one word in its slot: that it is inside, in which section, and where that
 * goes, which is the addresses it may touch, anywhere or nowhere. A section within a section widens the word of the one
 * around it to anywhere, unless it goes nowhere, and ends with it. The models keep sets instead of words: `inside` has
 * the bit of each thread that is in a section, and `reach` of each whose section may touch the addresses in question.
 * "Seen in the section n, and not in n any more" is kept as a note of those that were found inside; who leaves
 * strikes itself off all notes. The code's count of sections wraps around at 512. Then a drain may take a later section
 * of a thread for the one that it saw, and waits for that one, too.
 *
 * A drain of the code looks at one slot after the other, here it looks at all in the moment of the first look, and so
 * does the list of a departure. That lets it end at the latest when the code's does, for it waits for no section that
 * begins or is widened between the looks: it is the weaker drain, and what holds with it holds with the code's.
 *
 * Monitors. A critical section is written as one step where it touches only what its mutex guards and, besides, one
 * atomic at most: no other thread can tell the difference (Lipton, "Reduction", 1975). Where a thread looks and then
 * falls asleep, each step stands by itself, for that is where wake-ups get lost.
 */
#define BIT(t) (1 << (t))

inline lock(mutex)   { atomic { !mutex -> mutex = true } }
inline unlock(mutex) { mutex = false }

/* A critical section as one step, with `when(mutex)` as its first statement. */
#define when(mutex)  !mutex

/* Gives the mutex back and falls asleep at once, as pthread_cond_wait promises. */
inline sleep(mutex, asleep, t)  { d_step { mutex = false; asleep = asleep | BIT(t) } }
inline wakeUp(mutex, asleep, t) { atomic { !mutex && !(asleep & BIT(t)) -> mutex = true } }

/* `Monitor.update` that changes nothing: whoever sleeps looks again. */
inline wake(mutex, asleep) { d_step { when(mutex) -> asleep = 0 } }
