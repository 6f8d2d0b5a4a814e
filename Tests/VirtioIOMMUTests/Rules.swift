import RuleTables

/// The rules of the device model by number, what each demands, and why one has no test here.
///
/// Tests name the rules that they show in front of their names. `RulesTests` makes the table in the module's documentation
/// of both.
extension Rule {
    static let all = general + attachments + mappings + removals + probesAndFaults + driver + platform + emulator

    private static let general: [Rule] = [
        Rule("V1", "The page size mask's lowest bit is the unit; others hint."),
        Rule("V2", "Only the bypass byte can be written, if it was agreed on."),
        Rule("V3", "Bypass survives the driver's reset, not the machine's."),
        Rule("V4", "A reset forgets domains and mappings; devices let go first."),
        Rule("V5", "Writing bypass moves every endpoint that is attached to nothing."),
        Rule("V6", "Bypass is as it was for a driver that ignores it."),
        Rule("V7", "Bypass is identity, without ranges or alignment."),
        Rule("V8", "What is attached to nothing, without bypass, reaches nothing."),
        Rule("V9", "Requests may be split over descriptors anywhere."),
        Rule("V10", "Without room for head or tail nothing is written."),
        Rule("V11", "A short request is invalid; what follows one is ignored."),
        Rule("V12", "An unknown request is not answered."),
        Rule("V13", "Reserved bytes: ignored in the head, zero in the tail."),
        Rule("V14", "The used length is what was written."),
        Rule("V15", "Requests take effect in order, before they are answered."),
        Rule("V16", "The tail lies behind what else the device writes."),
    ]

    private static let attachments: [Rule] = [
        Rule("V17", "Reserved bytes of an attachment must be zero."),
        Rule("V18", "Unknown flags of an attachment are invalid."),
        Rule("V19", "A bypass domain needs the feature."),
        Rule("V20", "Attaching an endpoint that is not there."),
        Rule("V21", "A domain's number outside the range."),
        Rule("V22", "A domain comes to be by its first attachment."),
        Rule("V23", "A domain of the other kind changes nothing."),
        Rule("V24", "Attaching to the same domain changes nothing."),
        Rule("V25", "Attaching elsewhere detaches first."),
        Rule("V26", "Reserved addresses that are mapped forbid to attach."),
        Rule("V27", "An attached endpoint sees all that is mapped already."),
        Rule("V28", "An attachment that fails is undone."),
        Rule("V29", "Detaching an endpoint that is not there."),
        Rule("V30", "Detaching from where it is not attached."),
        Rule("V31", "Reserved bytes of a detachment are ignored."),
        Rule("V32", "After a detachment nothing reaches the domain's memory."),
        Rule("V33", "A domain ends with its last endpoint."),
    ]

    private static let mappings: [Rule] = [
        Rule("V34", "Unknown flags of a mapping are invalid."),
        Rule("V35", "Mapping in no domain, or in one that translates nothing."),
        Rule("V36", "A range must end behind its beginning."),
        Rule("V37", "Addresses must be aligned, and in range."),
        Rule("V38", "Mappings overlap neither each other nor what is reserved."),
        Rule("V39", "A mapping is unmapped as a whole or not at all."),
        Rule("V40", "A mapping without rights lets nothing through."),
        Rule("V41", "Writing does not imply reading."),
        Rule("V42", "What is no memory is not shown as memory."),
        Rule("V43", "Mappings may lead where there is no guest memory."),
        Rule("V44", "A mapping can be used when it is answered."),
        Rule("V45", "A domain takes only so many mappings."),
    ]

    private static let removals: [Rule] = [
        Rule("V46", "Unmapping in no domain, or in one that translates nothing."),
        Rule("V47", "Unmapping needs neither alignment nor mappings."),
        Rule("V48", "A range that ends before it begins is invalid."),
        Rule("V49", "The standard's seven examples."),
        Rule("V50", "An unmap is answered when no device can write any more."),
    ]

    private static let probesAndFaults: [Rule] = [
        Rule("V51", "Probing needs the feature, and an endpoint."),
        Rule("V52", "Properties are packed; what does not fit is invalid."),
        Rule("V53", "One region for messages at most; regions do not overlap."),
        Rule("V54", "A probe says the same every time."),
        Rule("V55", "Accesses to reserved addresses are faults."),
        Rule("V56", "Without a buffer a fault is dropped and counted."),
        Rule("V57", "A fault says why, where, who and in which direction."),
        Rule("V58", "An access faults once; storms are limited."),
    ]

    private static let driver: [Rule] = [
        Rule("V59", "A stock driver finds the features and ranges that it needs."),
        Rule("V60", "A driver polls for the answer, so batches are short."),
        Rule("V61", "A driver does not look at most answers: report them."),
        Rule("V62", "No answer is an answer to the driver."),
        Rule("V63", "A batch is as large as the queue."),
        Rule("V64", "Unmaps come in batches, between maps and moves."),
        Rule("V65", "A driver unmaps whole mappings, several at once."),
        Rule("V66", "A driver maps everything anew after the last detachment."),
        Rule("V67", "A driver probes once, and skips what it does not know."),
        Rule(
            "V68", "Without a region for messages a driver maps the doorbell.",
            .elsewhere(
                "There is such a region unless an endpoint is given others; the mapping of a doorbell is one of MMIO, as "
                    + "V42 shows. Functions of this process interrupt by their client, not by translated writes.")),
        Rule("V69", "A driver takes events of 24 bytes and prints them."),
        Rule(
            "V70", "A change of the configuration makes a driver complain.",
            .elsewhere("The configuration changes by the driver's hand alone, so there is nothing to tell.")),
    ]

    private static let platform: [Rule] = [
        Rule(
            "V71", "A table of the platform names the IOMMU and its endpoints.",
            .elsewhere("The tests of `PCITopology` hold the table that the tool writes; endpoints take any number.")),
        Rule(
            "V72", "Endpoints wait for the IOMMU's driver, which is not translated.",
            .elsewhere(
                "A guest's own business, which the guest scenario `iommu-own` watches. The IOMMU's function has a route of "
                    + "its own that translates nothing.")),
        Rule("V73", "Bounds of the platform's table.", .elsewhere("As V71.")),
        Rule("V74", "Device trees.", .elsewhere("Machines here have ACPI.")),
    ]

    private static let emulator: [Rule] = [
        Rule("V75", "QEMU pushes mappings in powers of two.", .elsewhere(behindQEMU)),
        Rule("V76", "QEMU replays mappings when something is attached.", .elsewhere(behindQEMU)),
        Rule("V77", "QEMU pushes guest memory while an endpoint is in bypass.", .elsewhere(behindQEMU)),
        Rule("V78", "QEMU's granule is the host's.", .elsewhere(behindQEMU)),
        Rule("V79", "QEMU's input range depends on the machine.", .elsewhere(behindQEMU)),
        Rule("V80", "QEMU makes reserved regions of what a container allows.", .elsewhere(behindQEMU)),
        Rule("V81", "QEMU does not look at alignment and ranges.", .elsewhere(behindQEMU)),
        Rule("V82", "What is no memory, or lets nothing through, is not pushed."),
        Rule("V83", "There are no PASIDs and page requests.", .elsewhere("Neither are there any here.")),
        Rule(
            "V84", "The state can be migrated.",
            .elsewhere("The function cannot be migrated, and says so by not offering it.")),
        Rule("V85", "Looking for split mappings and unmapping are one step."),
        Rule("V86", "Pins that stay never look like a split mapping."),
    ]

    private static let behindQEMU =
        "A peculiarity of QEMU's own IOMMU, which the guest scenarios meet; here mappings are pushed to nobody."
}
