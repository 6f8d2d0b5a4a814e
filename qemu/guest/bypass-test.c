/*
 * bypass-test: whether a device reaches memory by its physical address.
 *
 *     bypass-test 0000:00:03.0 reaches|does-not-reach
 *
 * Drives the educational device through sysfs, with no driver of the kernel's on it, and has it read and write a page
 * of this program by the page's physical address. That works where no IOMMU stands between them, where one lets the
 * device pass, and where one has an identity mapping; otherwise memory and device must keep what they had. Status 0 if
 * it is as the second argument says. The device must have been made with as many DMA address bits as memory has.
 */
#include "edu.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
    bool reaches = argc == 3 && strcmp(argv[2], "reaches") == 0;
    if (argc != 3 || (!reaches && strcmp(argv[2], "does-not-reach") != 0)) {
        fprintf(stderr, "usage: bypass-test ADDRESS reaches|does-not-reach\n");
        return 64;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct edu edu = { 0 };
    pci_open_through_sysfs(&edu.pci, argv[1], EDU_BAR_SIZE);
    check(edu_read(&edu, EDU_IDENTIFICATION) == EDU_ID, "identification 0x010000ed");
    uint8_t *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || mlock(page, PAGE_SIZE))
        fail("memory: %s", strerror(errno));
    memset(page, 0x11, PAGE_SIZE);
    uint64_t address = physical_address(page);

    /* A device that reads nothing writes what it had before, so the two cannot be mistaken for each other. */
    to_device(&edu, address, 0, PAGE_SIZE);
    memset(page, 0x22, PAGE_SIZE);
    to_memory(&edu, address, 0, PAGE_SIZE);
    if (reaches)
        check(is_all(page, PAGE_SIZE, 0x11), "the device reads and writes by physical address");
    else
        check(is_all(page, PAGE_SIZE, 0x22), "the device does not write by physical address");
    return 0;
}
