/*
 * Who answers the copy engine's page requests: address spaces whose pages are in frames of memory, and are mapped for
 * the device when it asks for them and not before.
 */
#ifndef COPY_PAGER_H
#define COPY_PAGER_H

#include "copy-engine.h"

#define CANARY 0xc5

/* Pages of memory, the neighbours of one never beside it in memory. One that is not in use is full of canaries, and is
   looked at before it is used again, which it is as late as possible. */
struct frames {
    struct memory memory;
    uint32_t *unused; /* a queue */
    uint32_t count, first, unused_count;
};

/* An address space of the device, and what is in its pages; all of them have a frame from the beginning on. */
struct space {
    uint32_t pasid;
    uint32_t right; /* what work does here: RIGHT_READ or RIGHT_WRITE */
    uint64_t base;
    uint64_t seed; /* of the contents */
    uint32_t pages;
    uint32_t *frames;
    bool *is_mapped;
    uint32_t *asked; /* how often a page was asked for */
    bool (*refuses)(uint32_t page); /* NULL: no page */
};

/* An answer that the device has not yet said to have read. */
struct answer {
    uint64_t seen; /* when the group was */
    const struct completion *record;
};

#define MOST_ANSWERS 1024u
#define MOST_SPACES 2

struct pager {
    struct engine *engine;
    struct frames frames;
    struct space *spaces[MOST_SPACES];
    bool is_deaf; /* takes page requests out of the ring and does not answer */
    uint32_t last_cookie;
    struct answer answers[MOST_ANSWERS]; /* a queue */
    uint32_t first_answer, answers_under_way;
    uint64_t groups, requests, groups_refused;
    uint64_t requests_again; /* for a page that another group had asked for already */
    uint64_t *latencies;     /* in nanoseconds, of each group */
    size_t latency_count, latency_room;
};

void pager_open(struct pager *pager, struct engine *engine, uint32_t frames);
/* Forgets what was under way, as the device has. */
void pager_forget(struct pager *pager);
/* Looks at page requests and at answers; returns whether there were any. */
bool pager_serve(struct pager *pager);
/* Waits until all answers have been read by the device. */
void pager_finish(struct pager *pager);

/* `count` is rounded down to a power of two. */
void frames_make(struct frames *frames, struct pci_function *pci, uint32_t count);
uint8_t *frame_bytes(const struct frames *frames, uint32_t frame);
/* All unused frames are to have their canaries. */
void check_frames(const struct frames *frames, const char *what);

/* Makes an address space and gives its pages frames: for reading with contents that its seed and their place make
   unlike all others, for writing with canaries. */
void space_make(struct pager *pager, struct space *space, uint32_t pasid, uint32_t right, uint64_t base,
    uint32_t pages, bool has_demand_paging);
/* Gives the pages such contents again. */
void space_refill(const struct pager *pager, struct space *space, uint64_t seed);
/* Destroys it in the device and here. */
void space_destroy(struct pager *pager, struct space *space);
/* The same only here, for a device that has been reset. */
void space_forget(struct pager *pager, struct space *space);
/* The command that maps a page for the device. */
struct descriptor space_map_command(const struct pager *pager, const struct space *space, uint32_t page);
/* Maps all of it. */
void space_map(struct pager *pager, struct space *space);
/* Unmaps what is mapped of some pages, and holds what the device says of it against what is known here; meanwhile no
   page request is looked at. Returns how many there were. */
uint32_t space_unmap(struct pager *pager, struct space *space, uint32_t first, uint32_t count);
/* Gives a page another frame with the same contents; the page must not be mapped. */
void space_move(struct pager *pager, struct space *space, uint32_t page);
/* What is for reading is to be as it was made. */
void space_check(const struct pager *pager, const struct space *space);
/* What is in a page for reading: numbers that look like none, each made of its address and the seed. */
void write_pattern(uint8_t *bytes, uint64_t address, uint64_t seed);
uint64_t space_bytes(const struct space *space);

#endif
