/*
 * What the models share: the read sections of one access, and monitors as they are, a mutex and a condition that is
 * only ever broadcast.
 *
 * Sections. A slot's section counter is odd inside a section and grows for ever, so "seen as the odd n, and now not
 * n" says exactly that the section that was seen has been left. The models keep this instead of numbers: `inside` has
 * the bit of each thread whose counter is odd, a drain notes whom it finds inside, and who leaves strikes itself off
 * all notes. A counter that wraps around early would not be the same.
 *
 * A drain of the code looks at one slot after the other, here it looks at all in the moment of the first look. That
 * lets it end at the latest when the code's does, for it waits for no section that begins between the looks: it is
 * the weaker drain, and what holds with it holds with the code's.
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
