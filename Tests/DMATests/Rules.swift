import RuleTables

/// The rules of I/O address spaces by number, what each demands, and why one has no test here.
///
/// R1 to R92 are those of accesses, M1 to M61 those of mappings, L1 to L24 those of locks. Tests name the rules that they
/// show in front of their names. `RulesTests` makes the table in the module's documentation of both.
extension Rule {
    static let all = accesses + pins + callbacks + mappings + removals + confinement + locks

    private static let accesses: [Rule] = [
        Rule(
            "R1–R12", "Objects have numbers, references, descriptors and binary structures.",
            .elsewhere(
                "Objects are Swift's: a reference keeps them, a name that is not there does not compile, and what is "
                    + "told to the outside is the front end's. An attached access and its space keep each other.")),
        Rule("R13", "An access is made without an address space."),
        Rule("R14", "An access that pins asks its space for whole pages."),
        Rule("R15", "Attaching lists the access, raises the alignment, then opens the memory."),
        Rule("R16", "An attached access cannot be attached, not even to its own space."),
        Rule("R17", "Attaching during a change is refused as busy."),
        Rule("R18", "Attaching to a number that is no address space.", .elsewhere("Spaces are passed as objects.")),
        Rule(
            "R19", "The numbers of attached accesses run out.",
            .elsewhere("A space lists objects, not 16-bit numbers.")),
        Rule("R20", "Replacing needs an attachment, and no change under way."),
        Rule("R21", "Replacing by the same space does nothing at all."),
        Rule("R22", "Raising the alignment is refused if a mapping does not have it."),
        Rule("R23", "A replacement that is refused changes and calls nothing."),
        Rule("R24", "A replacement closes, joins the new, calls, leaves the old, opens."),
        Rule("R25", "During a change both spaces may call, even at once."),
        Rule("R26", "Ten thousand replacements leave nothing behind."),
        Rule("R27", "Detaching is a replacement by nothing."),
        Rule("R28", "Detaching what is not attached, or is changing, is an error."),
        Rule("R29", "Unpinning works during a change and reaches the old space."),
        Rule("R30", "Pins that stay make a change fail and leave the attachment."),
        Rule("R31", "An access without a callback is not called."),
        Rule("R32", "A leaving access takes its demand for alignment along."),
        Rule("R33", "Destroying an attached access calls once, a detached one never."),
        Rule("R34", "Destroying waits for callbacks that run."),
        Rule("R35", "After destruction nothing is called, counted or demanded."),
        Rule("R36", "Pins left at destruction are the device's bug."),
        Rule("R37", "Destroying beside an attachment's change is a bug that is noticed."),
        Rule("R38", "Destroying beside an unmap is legal."),
        Rule("R39", "Detaching beside an unmap is legal."),
        Rule("R40", "Of two replacements at once each is whole or refused."),
        Rule("R41", "The callback of a change covers the last byte of the space."),
        Rule("R42", "A change that fails leaves the access usable where it was."),
        Rule(
            "R43", "Attaching a device that is attached becomes a replacement.",
            .elsewhere("A policy of VFIO's front end. Here a session attaches its device once.")),
        Rule("R44", "Only an access with a callback may pin; any may transfer."),
        Rule(
            "R45", "The number that a client knows an access by never changes.",
            .elsewhere("Clients do not see accesses.")),
    ]

    private static let pins: [Rule] = [
        Rule("R46", "Pinning is for accesses that were made for it."),
        Rule("R47", "The errors of a pin come in a fixed order."),
        Rule("R48", "Without an attachment nothing can be pinned."),
        Rule("R49", "A pinned range has no hole; adjacent mappings are none."),
        Rule("R50", "A mapping that comes or goes is a hole to devices."),
        Rule("R51", "A mapping that an unmap has closed refuses pins."),
        Rule("R52", "A pin begins at a page and may end anywhere."),
        Rule("R53", "A pin needs the rights of every mapping it touches."),
        Rule("R54", "Memory that cannot be written is never pinned for writing."),
        Rule("R55", "By ascending address; closed and alignment before rights."),
        Rule("R56", "A pin that fails leaves no count behind."),
        Rule("R57", "What is pinned is shown in the order of the addresses."),
        Rule("R58", "Pins nest and overlap independently."),
        Rule("R59", "A pin counts once on each mapping it touches."),
        Rule(
            "R60", "An unpin names exactly what was pinned.",
            .elsewhere("`PinnedMemory` is the pin: it cannot be copied, changed or named by a range.")),
        Rule(
            "R61", "An unpin of nothing, or without attachment, is ignored.",
            .elsewhere("`unpin()` has no range to get wrong, and consumes the pin.")),
        Rule("R62", "Unpinning never waits, on any thread, in callbacks too."),
        Rule("R63", "A pin is good for the memory until it is released."),
        Rule("R64", "A pin outlives consumers, which see the same memory."),
        Rule(
            "R65", "Pinning the memory of a process that ended.",
            .elsewhere("Memory is files, which outlive their processes.")),
        Rule("R66", "Memory that only messages reach cannot be pinned."),
        Rule("R67", "No bytes, too many, no attachment: each its error."),
        Rule("R68", "Transfers know no alignment and cross mappings."),
        Rule("R69", "Holes, closed mappings, rights and faults: each its error."),
        Rule("R70", "Transfers are not atomic: what came before an error is done."),
        Rule("R71", "An unmap waits for transfers, which are no pins."),
        Rule("R72", "Shared and remote memory behave alike."),
        Rule(
            "R73", "A hint about the calling thread may be ignored.", .elsewhere("There is no such hint to give.")),
        Rule("R74", "Transfers need neither callback nor a promise to pin."),
        Rule("R75", "A transfer beside an unmap succeeds or fails, never late."),
        Rule("R76", "Reading asks for the read right only, writing for the other."),
    ]

    private static let callbacks: [Rule] = [
        Rule("R77", "A callback runs with no lock held, and may unpin."),
        Rule("R78", "It is told the whole mapping, not the request."),
        Rule("R79", "Every access of the space is told."),
        Rule("R80", "When it returns, the device's pins there are gone."),
        Rule("R81", "It may run several times, and beside itself."),
        Rule("R82", "It may be told of what was never pinned."),
        Rule(
            "R83", "It must not change its access or its space.",
            .elsewhere("The device's part, which the lock rules L3 and L5 watch over.")),
        Rule(
            "R84", "It must not wait for who ends its access.",
            .elsewhere("The device's part, which the lock rule L4 watches over.")),
        Rule("R85", "A device pins and records under one lock."),
        Rule("R86", "A mapping is closed before the first callback."),
        Rule("R87", "An exhausted budget leaves the mapping, closed."),
        Rule("R88", "A later unmap succeeds once the pins are gone."),
        Rule("R89", "After an unmap nothing reaches the memory, which may go."),
        Rule("R90", "Without pins nobody is called."),
        Rule("R91", "An unmap passes over accesses that are being destroyed."),
        Rule("R92", "Passing over one leaves no reference to it."),
    ]

    private static let mappings: [Rule] = [
        Rule("M1", "A mapping in transition holds its addresses and nothing else."),
        Rule("M2", "Mappings share memory; the last one lets it go."),
        Rule("M3", "While a mapping is in transition consumers neither come nor go."),
        Rule("M4", "A new space is empty, unaligned and wholly usable."),
        Rule("M5", "A map takes its addresses first and tells consumers then."),
        Rule("M6", "A map that fails frees its addresses."),
        Rule("M7", "The address that was found is returned."),
        Rule("M8", "Without consumers a map touches no memory."),
        Rule("M9", "A consumer that fails makes the map fail without a trace."),
        Rule("M10", "Allowed ranges do not bind maps at fixed addresses."),
        Rule("M11", "Mappings never merge."),
        Rule("M12", "The last page of the space can be mapped."),
        Rule("M13", "A mapping may have any size that fits."),
        Rule(
            "M14", "Pinned memory is accounted to a user or process.",
            .elsewhere("Nothing is locked in memory; `maximumMappings` is the limit that a front end sets.")),
        Rule("M15", "Half of the space is too much to find a place for."),
        Rule("M16", "A found address is aligned to size, memory and huge pages."),
        Rule("M17", "It is never in the first or the last page."),
        Rule("M18", "It is in the allowed ranges, ascending, if there are any."),
        Rule("M19", "Rounding up never passes the end of a hole."),
        Rule("M20", "The lowest hole that fits wins."),
        Rule("M21", "It is free, not reserved, and in one allowed range."),
        Rule("M22", "Memory that begins inside a page still lands where there is room."),
    ]

    private static let removals: [Rule] = [
        Rule("M23", "Everything can be unmapped when there is nothing."),
        Rule("M24", "An unmap of nothing or past the top is an error."),
        Rule("M25", "Ascending: in transition, then cut, then pinned."),
        Rule("M26", "What was removed before an error stays removed."),
        Rule("M27", "Holes do not matter; nothing at all is an error."),
        Rule("M28", "The bytes that were removed are counted."),
        Rule("M29", "Each mapping has its own budget of rounds."),
        Rule("M30", "While callbacks run, others may do everything."),
        Rule("M31", "A mapping that is being forgotten: hole, occupied, busy."),
        Rule("M32", "Copies do not hold the mapping they were made of."),
        Rule("M33", "Only VFIO's type 1 interface cuts mappings.", .elsewhere(noCut)),
        Rule("M34", "A cut at an end is none.", .elsewhere(noCut)),
        Rule("M35", "What is pinned, closed or in transition is not cut.", .elsewhere(noCut)),
        Rule("M36", "Both halves show the memory they showed.", .elsewhere(noCut)),
        Rule(
            "M37", "Large pages can be switched off for a space.",
            .elsewhere("There are no hardware page tables to choose pages for.")),
        Rule("M38", "A part of a mapping cannot be removed."),
        Rule("M39", "A copied range has no hole and nothing closed by an unmap."),
        Rule("M40", "A copy has a mapping for each piece, back to back."),
        Rule("M41", "A copy's rights are its own, within what was introduced."),
        Rule("M42", "Copies within a space and to and fro do not deadlock."),
        Rule("M43", "Copies share the memory and outlive the source."),
        Rule("M44", "A copy that fails leaves nothing."),
    ]

    private static let noCut = "Mappings are never split, see M38."

    private static let confinement: [Rule] = [
        Rule("M45", "The usable ranges are what is not reserved."),
        Rule("M46", "Mappings and allowed ranges do not change them."),
        Rule("M47", "Allowed ranges are replaced as a whole or not at all."),
        Rule("M48", "Mappings outside new allowed ranges stay."),
        Rule("M49", "What is mapped or allowed cannot be reserved."),
        Rule("M50", "A reservation is its owner's."),
        Rule("M51", "A consumer that does not fit leaves no trace."),
        Rule("M52", "A consumer is attached once."),
        Rule("M53", "A leaving consumer takes back its own."),
        Rule(
            "M54", "A device's own reserved regions bind its space.",
            .elsewhere("No device here has any; a front end says `reserve` for what its client announces.")),
        Rule("M55", "The arguments of a look at dirty pages are checked."),
        Rule("M56", "Bits count from the range's start and are only set."),
        Rule("M57", "Larger and smaller dirty units find their bits."),
        Rule("M58", "Looking clears, unless asked not to."),
        Rule("M59", "Tracking starts clean."),
        Rule("M60", "Holes are clean and do not end the look."),
        Rule("M61", "Writes, and pins for writing, make dirty."),
    ]

    private static let locks: [Rule] = [
        Rule("L1", "No ending an access under a lock its callback takes."),
        Rule("L2", "Nor through a third lock."),
        Rule("L3", "No ending an access in its own callback."),
        Rule("L4", "A callback does not wait for who ends its access."),
        Rule("L5", "A callback does not map or unmap in its space."),
        Rule("L6", "No unmap under a lock that a callback takes."),
        Rule("L7", "No unmap inside a read section, nor of one's own pin."),
        Rule("L8", "A pin is recorded before a callback can miss it."),
        Rule("L9", "The module's locks are taken in one order."),
        Rule("L10", "Never the locks of two spaces at once."),
        Rule("L11", "No callback under the lock of its access."),
        Rule("L12", "No callback under any lock of the module."),
        Rule(
            "L13", "Faults are not flushed by who handles them.",
            .elsewhere("There are no faults here that could be handled or flushed.")),
        Rule(
            "L14", "No removal under a lock that the response takes.",
            .elsewhere("There are no faults here that a device could answer.")),
        Rule(
            "L15", "No unbinding under a lock that a fault needs.",
            .elsewhere("There is nothing to bind: no sharing of a process's address space.")),
        Rule("L16", "No waiting inside a read section."),
        Rule("L17", "No pin is dropped, released twice, or by another access."),
        Rule(
            "L18", "No reference is kept over the wait for its end.",
            .elsewhere("Accesses are Swift references, not numbers to look up: nothing waits for one to be given back.")
        ),
        Rule("L19", "No access is used after its destruction."),
        Rule("L20", "A callback keeps to its time."),
        Rule("L21", "Callbacks beside themselves are no fault."),
        Rule("L22", "No waiting for pins under the device's lock."),
        Rule("L23", "No waiting for pins on the thread that hears the peer."),
        Rule("L24", "Queues, attachments, accesses, spaces: ended in this order."),
    ]
}
