/*
 * What the models share: a monitor as it is (a mutex and a condition that is only ever broadcast), and the read sections
 * of one access.
 *
 * A slot's section counter grows for ever and is odd inside a section, so "seen odd as n, and no longer n" says exactly
 * that the section seen has been left. The models keep that fact instead of the number: `inside` has the bit of each
 * thread whose counter is odd; a drain notes the threads it found inside, and a thread that leaves strikes itself off
 * the notes. Unlike a counter that wraps around early, this is exact.
 *
 * A drain of the code looks at one slot after the other; here it looks at all at the moment of the first look. That
 * allows it to end no later than the code's, since a section which begins between the looks is not waited for; what
 * holds here holds there.
 */
#define BIT(t) (1 << (t))

/* Taking a mutex, and giving it back. */
inline lock(mutex)   { atomic { !mutex -> mutex = true } }
inline unlock(mutex) { mutex = false }

/* Giving the mutex back and falling asleep are one step, as pthread_cond_wait promises; waking is one of its own. */
inline sleep(mutex, asleep, t)  { d_step { mutex = false; asleep = asleep | BIT(t) } }
inline wakeUp(mutex, asleep, t) { atomic { !mutex && !(asleep & BIT(t)) -> mutex = true } }

/* `Monitor.update` with nothing to change: whoever sleeps looks again. */
inline broadcast(mutex, asleep) { lock(mutex); d_step { asleep = 0; mutex = false } }
