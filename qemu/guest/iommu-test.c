/*
 * iommu-test: what an IOMMU lets through and what it holds back, as the educational PCI device behind it sees it.
 *
 *     iommu-test 0000:00:03.0 [--pages N] [--every N] [--strays N] [--clears]
 *     iommu-test 0000:00:03.0 --pairs N [--batch N]
 *
 * Maps --pages pages one at a time (16384, which are 64 MiB), so that pages beside each other for the device are not so
 * in memory, and has the device read and write one of --every (16). Then it unmaps every second page, has the device
 * use --strays (16) of those, which must leave memory and device as they were, and the pages beside them, which must
 * still be there; and in the end all of them in one go. Each stray access is printed, for whoever looks for it in the
 * kernel's log. With --clears the device is one whose buffer is all zero after a read that failed, as QEMU's own is.
 *
 * With --pairs it measures instead: so many maps and unmaps of one page, then as many pages in batches of --batch (64)
 * that are mapped and unmapped with one call each. `pair` lines tell nanoseconds per page.
 */
#include "edu.h"

#include <errno.h>
#include <getopt.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Within the 28 bits of the device's DMA engine; the window is for looking at the device's buffer. */
#define AREA_IOVA 0x4000000ull
#define WINDOW_IOVA 0x3000000ull
#define MOST_PAGES ((1ul << 28) / PAGE_SIZE - AREA_IOVA / PAGE_SIZE)
#define BOTH_WAYS (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)
/* Odd, so that multiplying by it reorders any power of two of pages; prime, so that the order looks like none. */
#define STRIDE 7919u

struct area {
    struct edu edu;
    uint8_t *memory;
    uint8_t *window;
    unsigned long pages;
    bool clears;
};

static uint64_t iova_of(unsigned long page)
{
    return AREA_IOVA + page * PAGE_SIZE;
}

/* The memory behind a page of the area. */
static uint8_t *memory_of(const struct area *area, unsigned long page)
{
    return area->memory + page * STRIDE % area->pages * PAGE_SIZE;
}

/* Contents that no other page has, nor the same page shifted. */
static void stamp(uint8_t *bytes, unsigned long page)
{
    uint32_t *words = (uint32_t *)bytes;
    for (uint32_t i = 0; i < PAGE_SIZE / sizeof(*words); i++)
        words[i] = (uint32_t)page * 2654435761u ^ i * 40503u;
}

static bool is_stamped(const uint8_t *bytes, unsigned long page)
{
    static uint8_t expected[PAGE_SIZE] __attribute__((aligned(8)));
    stamp(expected, page);
    return memcmp(bytes, expected, PAGE_SIZE) == 0;
}

static uint8_t *pages_of_memory(unsigned long pages)
{
    uint8_t *bytes = mmap(NULL, pages * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED || madvise(bytes, pages * PAGE_SIZE, MADV_NOHUGEPAGE))
        fail("memory: %s", strerror(errno));
    return bytes;
}

static void check_memory(const struct area *area, const char *what)
{
    for (unsigned long page = 0; page < area->pages; page++)
        if (!is_stamped(memory_of(area, page), page))
            fail("the memory of page %lu is not what it was: %s", page, what);
    printf("ok: all %lu pages of memory are as they should be: %s\n", area->pages, what);
}

/* Takes a page's contents to the device and back, past a memory that was wiped meanwhile. */
static void round_trip(const struct area *area, unsigned long page)
{
    uint8_t *bytes = memory_of(area, page);
    to_device(&area->edu, iova_of(page), 0, PAGE_SIZE);
    memset(bytes, 0, PAGE_SIZE);
    to_memory(&area->edu, iova_of(page), 0, PAGE_SIZE);
    if (!is_stamped(bytes, page))
        fail("page %lu does not come back from the device", page);
}

static void put_in_device(const struct area *area, uint8_t value)
{
    memset(area->window, value, PAGE_SIZE);
    to_device(&area->edu, WINDOW_IOVA, 0, PAGE_SIZE);
}

static void expect_in_device(const struct area *area, uint8_t value, uint64_t iova)
{
    memset(area->window, (uint8_t)~value, PAGE_SIZE);
    to_memory(&area->edu, WINDOW_IOVA, 0, PAGE_SIZE);
    if (!is_all(area->window, PAGE_SIZE, value))
        fail("the device has read from 0x%llx", (unsigned long long)iova);
}

/* Has the device write to a page that it may not write to; the page must still have its contents. */
static void stray_write(const struct area *area, unsigned long page)
{
    put_in_device(area, 0xd7);
    to_memory(&area->edu, iova_of(page), 0, PAGE_SIZE);
    if (!is_stamped(memory_of(area, page), page))
        fail("the device has written to 0x%llx", (unsigned long long)iova_of(page));
    printf("stray write to 0x%llx\n", (unsigned long long)iova_of(page));
}

/* Has the device read from a page that it may not read; its buffer must have nothing of it. */
static void stray_read(const struct area *area, unsigned long page)
{
    put_in_device(area, 0x3a);
    to_device(&area->edu, iova_of(page), 0, PAGE_SIZE);
    expect_in_device(area, area->clears ? 0 : 0x3a, iova_of(page));
    printf("stray read from 0x%llx\n", (unsigned long long)iova_of(page));
}

static void map_page_by_page(const struct area *area)
{
    unsigned long start = now();
    for (unsigned long page = 0; page < area->pages; page++)
        map(&area->edu.pci, memory_of(area, page), iova_of(page), PAGE_SIZE, BOTH_WAYS);
    printf("ok: %lu pages mapped one by one in %lu ms\n", area->pages, (now() - start) / 1000000);
}

static void test_transfers(const struct area *area, unsigned long every)
{
    unsigned long count = 0;
    for (unsigned long page = 0; page < area->pages; page += every, count++)
        round_trip(area, page);
    /* Contents that go through two mappings at a time, at a boundary where memory has a gap. */
    to_device(&area->edu, iova_of(0) + PAGE_SIZE / 2, 0, PAGE_SIZE);
    to_memory(&area->edu, WINDOW_IOVA, 0, PAGE_SIZE);
    check(memcmp(area->window, memory_of(area, 0) + PAGE_SIZE / 2, PAGE_SIZE / 2) == 0
              && memcmp(area->window + PAGE_SIZE / 2, memory_of(area, 1), PAGE_SIZE / 2) == 0,
          "a transfer across two pages takes half from each");
    printf("ok: %lu pages to the device and back\n", count);
    check_memory(area, "after the transfers");
}

static void test_strays(const struct area *area, unsigned long strays)
{
    unsigned long step = area->pages / strays & ~1ul;

    unsigned long start = now();
    for (unsigned long page = 1; page < area->pages; page += 2)
        unmap(&area->edu.pci, iova_of(page), PAGE_SIZE, PAGE_SIZE);
    printf("ok: %lu pages unmapped one by one in %lu ms\n", area->pages / 2, (now() - start) / 1000000);
    for (unsigned long i = 0; i < strays; i++) {
        stray_write(area, i * step + 1);
        stray_read(area, i * step + 1);
        round_trip(area, i * step);
    }
    check_memory(area, "every second page is unmapped");

    unmap(&area->edu.pci, AREA_IOVA, area->pages * PAGE_SIZE, area->pages / 2 * PAGE_SIZE);
    for (unsigned long i = 0; i < strays; i++) {
        stray_write(area, i * step);
        stray_read(area, i * step);
    }
    check_memory(area, "all are unmapped");

    map(&area->edu.pci, memory_of(area, 1), iova_of(1), PAGE_SIZE, VFIO_DMA_MAP_FLAG_READ);
    stray_write(area, 1);
    to_device(&area->edu, iova_of(1), 0, PAGE_SIZE);
    to_memory(&area->edu, WINDOW_IOVA, 0, PAGE_SIZE);
    check(is_stamped(area->window, 1), "a page mapped for reading is read and not written");
    unmap(&area->edu.pci, iova_of(1), PAGE_SIZE, PAGE_SIZE);
}

static void measure(const struct area *area, unsigned long pairs, unsigned long batch)
{
    unsigned long start = now();
    for (unsigned long i = 0; i < pairs; i++) {
        unsigned long page = i % area->pages;
        map(&area->edu.pci, memory_of(area, page), iova_of(page), PAGE_SIZE, BOTH_WAYS);
        unmap(&area->edu.pci, iova_of(page), PAGE_SIZE, PAGE_SIZE);
    }
    printf("pair, single: %lu ns\n", (now() - start) / pairs);

    /* Memory gets its pages when it is first touched: in an order that leaves no two of them beside each other, each is
       a mapping of its own for the IOMMU. */
    uint8_t *scattered = pages_of_memory(batch);
    for (unsigned long i = 0; i < batch; i++)
        scattered[i * STRIDE % batch * PAGE_SIZE] = 1;
    unsigned long batches = (pairs + batch - 1) / batch;
    start = now();
    for (unsigned long i = 0; i < batches; i++) {
        map(&area->edu.pci, scattered, AREA_IOVA, batch * PAGE_SIZE, BOTH_WAYS);
        unmap(&area->edu.pci, AREA_IOVA, batch * PAGE_SIZE, batch * PAGE_SIZE);
    }
    printf("pair, in batches of %lu: %lu ns\n", batch, (now() - start) / (batches * batch));
}

static unsigned long number(const char *text, unsigned long least, unsigned long most, bool is_power_of_two)
{
    char *end;
    unsigned long value = strtoul(text, &end, 0);
    if (*end || value < least || value > most || (is_power_of_two && value & (value - 1))) {
        fprintf(stderr, "iommu-test: %s is not a number that makes sense here\n", text);
        exit(64);
    }
    return value;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "pages", required_argument, NULL, 'p' },  { "every", required_argument, NULL, 'e' },
        { "strays", required_argument, NULL, 's' }, { "pairs", required_argument, NULL, 'n' },
        { "batch", required_argument, NULL, 'b' },  { "clears", no_argument, NULL, 'c' },
        { NULL, 0, NULL, 0 },
    };
    struct area area = { .pages = 16384 };
    unsigned long every = 16, strays = 16, pairs = 0, batch = 64;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (option) {
        case 'p': area.pages = number(optarg, 4, MOST_PAGES, true); break;
        case 'e': every = number(optarg, 1, MOST_PAGES, false); break;
        case 's': strays = number(optarg, 1, MOST_PAGES, false); break;
        case 'n': pairs = number(optarg, 1, 100000000, false); break;
        case 'c': area.clears = true; break;
        case 'b': batch = number(optarg, 1, MOST_PAGES, true); break;
        default: return 64;
        }
    if (optind != argc - 1 || strays > area.pages / 2) {
        fprintf(stderr, "usage: iommu-test ADDRESS [--pages N] [--every N] [--strays N] [--clears]\n"
                        "       iommu-test ADDRESS --pairs N [--batch N]\n");
        return 64;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    pci_open_through_vfio(&area.edu.pci, argv[optind], EDU_BAR_SIZE);
    area.memory = pages_of_memory(area.pages);
    for (unsigned long page = 0; page < area.pages; page++)
        stamp(memory_of(&area, page), page);
    if (pairs) {
        measure(&area, pairs, batch);
        return 0;
    }
    area.window = pages_of_memory(1);
    map(&area.edu.pci, area.window, WINDOW_IOVA, PAGE_SIZE, BOTH_WAYS);
    map_page_by_page(&area);
    test_transfers(&area, every);
    test_strays(&area, strays);
    unmap(&area.edu.pci, WINDOW_IOVA, PAGE_SIZE, PAGE_SIZE);
    printf("all right\n");
    return 0;
}
