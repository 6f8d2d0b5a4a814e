#include "copy-pager.h"

#include <stdlib.h>

#define MOST_REQUESTS 512u

void pager_open(struct pager *pager, struct engine *engine, uint32_t frames)
{
    *pager = (struct pager) { .engine = engine };
    frames_make(&pager->frames, &engine->pci, frames);
}

void pager_forget(struct pager *pager)
{
    pager->answers_under_way = 0;
}

static struct space *space_of(const struct pager *pager, uint32_t pasid)
{
    for (int i = 0; i < MOST_SPACES; i++)
        if (pager->spaces[i] && pager->spaces[i]->pasid == pasid)
            return pager->spaces[i];
    fail("a page request for PASID %u", pasid);
}

static uint32_t page_of(const struct space *space, const struct page_request *request)
{
    uint64_t offset = request->page - space->base;
    if (request->page % PAGE_SIZE || offset >= space_bytes(space))
        fail("a page request for 0x%llx in PASID %u, where nothing is used", (unsigned long long)request->page,
            space->pasid);
    if (request->rights != space->right)
        fail("a page request with rights %u where work needs %u", request->rights, space->right);
    return (uint32_t)(offset / PAGE_SIZE);
}

static void check_group(const struct page_request *requests, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        bool is_one_group = requests[i].cookie == requests[0].cookie && requests[i].pasid == requests[0].pasid
            && requests[i].page / GROUP_SIZE == requests[0].page / GROUP_SIZE;
        if (!is_one_group || requests[i].zero || requests[i].flags & ~REQUEST_IS_LAST)
            fail("page request %u of %u does not belong to its group", i, count);
    }
}

static void answer(struct pager *pager, uint32_t cookie, bool is_refused, uint64_t seen)
{
    if (pager->answers_under_way == MOST_ANSWERS)
        fail("more than %u answers under way", MOST_ANSWERS);
    struct descriptor descriptor = {
        .opcode = OPCODE_ANSWER, .options = is_refused ? OPTION_REFUSED : OPTION_PAGES_ARE_THERE, .source = cookie,
    };
    pager->answers[(pager->first_answer + pager->answers_under_way++) % MOST_ANSWERS] = (struct answer) {
        .seen = seen, .record = command(pager->engine, descriptor),
    };
    pager->groups_refused += is_refused;
}

/* Maps those pages of a group that are not to be refused. If there are any, the device asks for the others alone. */
static void serve_group(struct pager *pager, const struct page_request *requests, uint32_t count, uint64_t seen)
{
    check_group(requests, count);
    pager->groups++;
    pager->requests += count;
    pager->last_cookie = requests[0].cookie;
    if (pager->is_deaf)
        return;
    struct space *space = space_of(pager, requests[0].pasid);
    bool is_refused = true;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t page = page_of(space, &requests[i]);
        pager->requests_again += space->asked[page]++ > 0;
        if (space->refuses && space->refuses(page))
            continue;
        is_refused = false;
        if (space->is_mapped[page])
            continue;
        ring_put(pager->engine, &pager->engine->commands, space_map_command(pager, space, page));
        space->is_mapped[page] = true;
    }
    answer(pager, requests[0].cookie, is_refused, seen);
}

static void add_latency(struct pager *pager, uint64_t latency)
{
    if (pager->latency_count == pager->latency_room) {
        pager->latency_room = pager->latency_room ? pager->latency_room * 2 : 1024;
        pager->latencies = realloc(pager->latencies, pager->latency_room * sizeof(*pager->latencies));
        if (!pager->latencies)
            fail("no memory");
    }
    pager->latencies[pager->latency_count++] = latency;
}

/* Returns whether there was an answer that has been read. */
static bool look_at_answers(struct pager *pager)
{
    uint32_t before = pager->answers_under_way;
    for (; pager->answers_under_way > 0; pager->answers_under_way--) {
        const struct answer *oldest = &pager->answers[pager->first_answer];
        if (status_of(oldest->record) == STATUS_NONE)
            break;
        if (oldest->record->status != STATUS_SUCCESS)
            fail("an answer has the status %u, error %u", oldest->record->status, oldest->record->error);
        add_latency(pager, now() - oldest->seen);
        pager->first_answer = (pager->first_answer + 1) % MOST_ANSWERS;
    }
    return pager->answers_under_way < before;
}

bool pager_serve(struct pager *pager)
{
    struct page_request requests[MOST_REQUESTS];
    bool went_on = false;
    for (uint32_t count; (count = next_group(pager->engine, requests, MOST_REQUESTS)) > 0; went_on = true) {
        serve_group(pager, requests, count, now());
        look_at_answers(pager);
    }
    return look_at_answers(pager) || went_on;
}

void pager_finish(struct pager *pager)
{
    uint64_t start = now();
    while (pager_serve(pager), pager->answers_under_way > 0)
        engine_wait(pager->engine, start, "the device reads an answer");
}
