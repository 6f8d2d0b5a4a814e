-- Wireshark's dissector for vfio-user, in the captures that `outboard decode --pcapng` writes.
--
--     tshark -X lua_script:schemas/vfio-user.lua -r capture.pcapng
--
-- Packets are of the link type USER0, each a pseudo-header and a message; Sources/VFIOUserRecording/PacketCapture.swift
-- has the layout. Every read is bounded by what the packet has: what is missing is told as an expert item.

local vfio_user = Proto("vfio_user", "vfio-user")

local COMMANDS = {
    [1] = "VERSION", [2] = "DMA_MAP", [3] = "DMA_UNMAP", [4] = "DEVICE_GET_INFO", [5] = "DEVICE_GET_REGION_INFO",
    [6] = "DEVICE_GET_REGION_IO_FDS", [7] = "DEVICE_GET_IRQ_INFO", [8] = "DEVICE_SET_IRQS", [9] = "REGION_READ",
    [10] = "REGION_WRITE", [11] = "DMA_READ", [12] = "DMA_WRITE", [13] = "DEVICE_RESET", [15] = "REGION_WRITE_MULTI",
    [16] = "DEVICE_FEATURE", [17] = "MIG_DATA_READ", [18] = "MIG_DATA_WRITE",
}
local TYPES = { [0] = "command", [1] = "reply" }
local DESCRIPTOR_KINDS = { [1] = "memory", [2] = "event counter", [3] = "socket", [4] = "other" }
local CAPABILITIES = { [1] = "SPARSE_MMAP", [2] = "TYPE", [3] = "MSIX_MAPPABLE" }
local SHORT_CUTS = { [0] = "ioeventfd", [1] = "ioregionfd", [2] = "shadow ioeventfd" }
local FEATURES = {
    [1] = "MIGRATION", [2] = "MIG_DEVICE_STATE", [6] = "DMA_LOGGING_START", [7] = "DMA_LOGGING_STOP",
    [8] = "DMA_LOGGING_REPORT", [11] = "DMA_BUF",
}
local STATES = {
    [0] = "ERROR", [1] = "STOP", [2] = "RUNNING", [3] = "STOP_COPY", [4] = "RESUMING", [5] = "RUNNING_P2P",
    [6] = "PRE_COPY", [7] = "PRE_COPY_P2P",
}
local INTERRUPTS = { [0] = "INTx", [1] = "MSI", [2] = "MSI-X", [3] = "ERR", [4] = "REQ" }

local fields = {}

local function field(constructor, name, title, ...)
    fields[name] = constructor("vfio_user." .. name, title, ...)
end

-- Whether a flag, a power of two, is set. Lua's own operators for bits depend on its version, and so on Wireshark's.
local function has(flags, bit) return flags % (2 * bit) >= bit end

-- A 32-bit field of flags with a boolean for each of `bits`, from bit 0 on or from the mask `first`.
local flag_sets = {}
local function flags(name, title, bits, first)
    field(ProtoField.uint32, name, title, base.HEX)
    flag_sets[name] = {}
    local mask = first or 1
    for _, bit in ipairs(bits) do
        local key = name .. "." .. bit
        field(ProtoField.bool, key, bit, 32, nil, mask)
        table.insert(flag_sets[name], key)
        mask = mask * 2
    end
end

-- The pseudo-header.
field(ProtoField.bool, "to_client", "From server to client", 8, nil, 1)
field(ProtoField.bool, "twin", "On the twin socket", 8, nil, 2)
field(ProtoField.bool, "fragment", "Fragment", 8, nil, 4)
field(ProtoField.bool, "lost_fds", "Descriptors were lost", 8, nil, 8)
field(ProtoField.uint16, "conversation", "Conversation")
field(ProtoField.uint16, "fds", "Descriptors")
field(ProtoField.uint8, "fd.kind", "Kind", base.DEC, DESCRIPTOR_KINDS)
field(ProtoField.bool, "fd.writable", "Writable")
field(ProtoField.uint32, "fd.number", "Number")
field(ProtoField.uint64, "fd.size", "Size")

-- The header.
field(ProtoField.uint16, "id", "Message ID")
field(ProtoField.uint16, "command", "Command", base.DEC, COMMANDS)
field(ProtoField.uint32, "size", "Message size")
field(ProtoField.uint32, "flags", "Flags", base.HEX)
field(ProtoField.uint32, "type", "Type", base.DEC, TYPES, 0xf)
field(ProtoField.bool, "no_reply", "No reply", 32, nil, 0x10)
field(ProtoField.bool, "is_error", "Error", 32, nil, 0x20)
field(ProtoField.uint32, "errno", "Error number")
field(ProtoField.framenum, "reply_in", "Reply in", base.NONE, frametype.RESPONSE)
field(ProtoField.framenum, "reply_to", "Reply to", base.NONE, frametype.REQUEST)
field(ProtoField.relative_time, "response_time", "Response time")

-- The payloads.
field(ProtoField.uint32, "argsz", "argsz")
field(ProtoField.bytes, "data", "Data")
field(ProtoField.uint16, "version.major", "Major")
field(ProtoField.uint16, "version.minor", "Minor")
field(ProtoField.string, "version.capabilities", "Capabilities")
flags("map.flags", "Flags", { "read", "write", "mmap", "file_io" })
field(ProtoField.uint64, "map.offset", "Offset in the file", base.HEX)
field(ProtoField.uint64, "map.address", "Address", base.HEX)
field(ProtoField.uint64, "map.size", "Size", base.HEX)
flags("unmap.flags", "Flags", { "dirty_bitmap", "all" })
field(ProtoField.uint64, "unmap.address", "Address", base.HEX)
field(ProtoField.uint64, "unmap.size", "Size", base.HEX)
field(ProtoField.uint64, "unmap.bitmap.pgsize", "Page size", base.HEX)
field(ProtoField.uint64, "unmap.bitmap.size", "Size of the bitmap")
flags("device.flags", "Flags", { "reset", "pci" })
field(ProtoField.uint32, "device.regions", "Regions")
field(ProtoField.uint32, "device.irqs", "Interrupt indexes")
flags("region.flags", "Flags", { "read", "write", "mmap", "caps" })
field(ProtoField.uint32, "region.index", "Region")
field(ProtoField.uint32, "region.cap_offset", "Offset of the capabilities")
field(ProtoField.uint64, "region.size", "Size", base.HEX)
field(ProtoField.uint64, "region.offset", "Offset to map from", base.HEX)
field(ProtoField.uint16, "region.cap.id", "Capability", base.DEC, CAPABILITIES)
field(ProtoField.uint16, "region.cap.version", "Version")
field(ProtoField.uint32, "region.cap.next", "Next capability")
field(ProtoField.uint32, "region.cap.type", "Type", base.HEX)
field(ProtoField.uint32, "region.cap.subtype", "Subtype", base.HEX)
field(ProtoField.uint32, "region.areas", "Areas")
field(ProtoField.uint64, "region.area.offset", "Offset", base.HEX)
field(ProtoField.uint64, "region.area.size", "Size", base.HEX)
field(ProtoField.uint32, "io_fds.flags", "Flags", base.HEX)
field(ProtoField.uint32, "io_fds.index", "Region")
field(ProtoField.uint32, "io_fds.count", "Entries")
field(ProtoField.uint64, "io_fds.offset", "Offset", base.HEX)
field(ProtoField.uint64, "io_fds.size", "Size")
field(ProtoField.uint32, "io_fds.fd_index", "Descriptor")
field(ProtoField.uint32, "io_fds.type", "Kind", base.DEC, SHORT_CUTS)
field(ProtoField.uint32, "io_fds.entry_flags", "Flags of KVM", base.HEX)
field(ProtoField.uint64, "io_fds.value", "Value to match, or data of KVM's user", base.HEX)
flags("irq.flags", "Flags", { "eventfd", "maskable", "automasked", "noresize" })
field(ProtoField.uint32, "irq.index", "Index", base.DEC, INTERRUPTS)
field(ProtoField.uint32, "irq.count", "Vectors")
flags("set_irqs.flags", "Flags", { "none", "bool", "eventfd", "mask", "unmask", "trigger" })
field(ProtoField.uint32, "set_irqs.index", "Index", base.DEC, INTERRUPTS)
field(ProtoField.uint32, "set_irqs.start", "First vector")
field(ProtoField.uint32, "set_irqs.count", "Vectors")
field(ProtoField.uint64, "access.offset", "Offset", base.HEX)
field(ProtoField.uint32, "access.region", "Region")
field(ProtoField.uint32, "access.count", "Bytes")
field(ProtoField.uint64, "dma.address", "Address", base.HEX)
field(ProtoField.uint64, "dma.count", "Bytes")
field(ProtoField.uint64, "multi.count", "Writes")
field(ProtoField.uint64, "multi.data", "Data", base.HEX)
flags("feature.flags", "Flags", { "get", "set", "probe" }, 0x10000)
field(ProtoField.uint32, "feature.number", "Feature", base.DEC, FEATURES, 0xffff)
field(ProtoField.uint64, "feature.migration", "Ways to migrate (1 stop-copy, 2 P2P, 4 pre-copy)", base.HEX)
field(ProtoField.uint32, "feature.state", "State", base.DEC, STATES)
field(ProtoField.uint32, "feature.data_fd", "Descriptor of the data")
field(ProtoField.uint64, "feature.page_size", "Page size", base.HEX)
field(ProtoField.uint32, "feature.ranges", "Ranges")
field(ProtoField.uint64, "feature.range.address", "Address", base.HEX)
field(ProtoField.uint64, "feature.range.size", "Size", base.HEX)
field(ProtoField.bytes, "feature.bitmap", "Dirty pages")
field(ProtoField.uint32, "migration.size", "Bytes of state")

local listed = {}
for _, one in pairs(fields) do table.insert(listed, one) end
vfio_user.fields = listed

local malformed = ProtoExpert.new("vfio_user.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
local refused = ProtoExpert.new("vfio_user.refused", "Refused", expert.group.RESPONSE_CODE, expert.severity.NOTE)
vfio_user.experts = { malformed, refused }

-- A part of a packet that is read from front to back. What is not there is told once and then reads as nothing.
local Reader = {}
Reader.__index = Reader

local function reader(buffer, offset, tree)
    -- Of a message that is too long for a capture, what is missing is not its sender's fault.
    local is_cut = buffer:reported_len() > buffer:len()
    return setmetatable({ buffer = buffer, offset = offset, tree = tree, complete = true, is_cut = is_cut }, Reader)
end

function Reader:left()
    return self.buffer:len() - self.offset
end

-- Whether `count` bytes are there; otherwise nothing more is read.
function Reader:has(count)
    if self.complete and self:left() >= count then return true end
    if self.complete then
        self.complete = false
        if not self.is_cut then self.tree:add_proto_expert_info(malformed, "ends too early") end
    end
    return false
end

-- Adds a field of `width` bytes and returns its value, a UInt64 for eight bytes; nil when it is not there.
function Reader:add(name, width)
    if not self:has(width) then return nil end
    local range = self.buffer(self.offset, width)
    self.offset = self.offset + width
    local item = self.tree:add_le(fields[name], range)
    if flag_sets[name] then
        for _, key in ipairs(flag_sets[name]) do item:add_le(fields[key], range) end
    end
    if width == 8 then return range:le_uint64() end
    return range:le_uint(), range, item
end

function Reader:skip(width)
    if self:has(width) then self.offset = self.offset + width end
end

-- What is left, as data.
function Reader:rest(name)
    if self.complete and self:left() > 0 then
        self.tree:add(fields[name or "data"], self.buffer(self.offset))
        self.offset = self.buffer:len()
    end
end

-- What is left should be nothing.
function Reader:finish()
    if self.complete and self:left() > 0 then
        self.tree:add_proto_expert_info(malformed, "has " .. self:left() .. " bytes too many")
    end
end

-- A UInt64 in hexadecimal. Lua's own formats refuse numbers that it holds as they are not.
local function hexadecimal(value)
    local digits = value:tohex():gsub("^0+(%x)", "%1")
    return "0x" .. digits
end

local function access(reader)
    local offset = reader:add("access.offset", 8)
    local region = reader:add("access.region", 4)
    local count = reader:add("access.count", 4)
    if not count then return nil end
    return string.format("region %d +%s, %d bytes", region, hexadecimal(offset), count)
end

local function version(reader)
    local major = reader:add("version.major", 2)
    local minor = reader:add("version.minor", 2)
    if reader.complete and reader:left() > 0 then
        reader.tree:add(fields["version.capabilities"], reader.buffer(reader.offset))
        reader.offset = reader.buffer:len()
    end
    if minor then return major .. "." .. minor end
end

local function unmap(reader)
    reader:add("argsz", 4)
    local flags = reader:add("unmap.flags", 4)
    reader:add("unmap.address", 8)
    reader:add("unmap.size", 8)
    if flags and has(flags, 1) then
        reader:add("unmap.bitmap.pgsize", 8)
        reader:add("unmap.bitmap.size", 8)
    end
    reader:rest()
end

local function region_info(reader, is_reply)
    local start = reader.offset
    reader:add("argsz", 4)
    local flags = reader:add("region.flags", 4)
    local index = reader:add("region.index", 4)
    local capability = reader:add("region.cap_offset", 4)
    reader:add("region.size", 8)
    reader:add("region.offset", 8)
    if not (is_reply and reader.complete and has(flags, 8)) then return index and "region " .. index end
    -- The chain may only lead forward and past the capability before, which ends it soon.
    local floor = 32
    while reader.complete and capability ~= 0 do
        if capability < floor then
            reader.tree:add_proto_expert_info(malformed, "capabilities turn back")
            break
        end
        reader.offset = start + capability
        if not reader:has(8) then break end
        local id = reader:add("region.cap.id", 2)
        reader:add("region.cap.version", 2)
        capability = reader:add("region.cap.next", 4)
        if id == 1 then
            local count = reader:add("region.areas", 4)
            reader:skip(4)
            while count and count > 0 and reader:has(16) do
                reader:add("region.area.offset", 8)
                reader:add("region.area.size", 8)
                count = count - 1
            end
        elseif id == 2 then
            reader:add("region.cap.type", 4)
            reader:add("region.cap.subtype", 4)
        end
        floor = reader.offset - start
    end
    reader.offset = reader.buffer:len()
    return index and "region " .. index
end

local function region_io_fds(reader, is_reply)
    local start = reader.offset
    local argsz = reader:add("argsz", 4)
    reader:add("io_fds.flags", 4)
    local index = reader:add("io_fds.index", 4)
    local count = reader:add("io_fds.count", 4)
    if is_reply and count and count > 0 and reader:left() > 0 then
        -- Entries may be longer than the standard's; their distance follows from the sizes.
        local stride = math.floor((argsz - 16) / count)
        if stride < 40 then
            reader.tree:add_proto_expert_info(malformed, "entries too short")
        else
            for entry = 0, count - 1 do
                reader.offset = start + 16 + entry * stride
                if not reader:has(40) then break end
                reader:add("io_fds.offset", 8)
                reader:add("io_fds.size", 8)
                reader:add("io_fds.fd_index", 4)
                reader:add("io_fds.type", 4)
                reader:add("io_fds.entry_flags", 4)
                reader:skip(4)
                reader:add("io_fds.value", 8)
            end
        end
        reader.offset = reader.buffer:len()
    end
    return index and "region " .. index
end

local function set_irqs(reader)
    reader:add("argsz", 4)
    reader:add("set_irqs.flags", 4)
    local index = reader:add("set_irqs.index", 4)
    local start = reader:add("set_irqs.start", 4)
    local count = reader:add("set_irqs.count", 4)
    reader:rest()
    if count then
        return string.format("%s, %d vectors from %d", INTERRUPTS[index] or "index " .. index, count, start)
    end
end

local function write_multi(reader, is_reply)
    local count = reader:add("multi.count", 8)
    if is_reply or not count then return end
    while reader:left() >= 24 do
        access(reader)
        reader:add("multi.data", 8)
    end
    return tostring(count) .. " writes"
end

-- What a feature's data say; what is not known is shown as bytes.
local FEATURE_DATA = {
    [1] = function(reader) reader:add("feature.migration", 8) end,
    [2] = function(reader)
        reader:add("feature.state", 4)
        reader:add("feature.data_fd", 4)
    end,
    [6] = function(reader)
        reader:add("feature.page_size", 8)
        local count = reader:add("feature.ranges", 4)
        reader:skip(4)
        while count and count > 0 and reader:has(16) do
            reader:add("feature.range.address", 8)
            reader:add("feature.range.size", 8)
            count = count - 1
        end
    end,
    [8] = function(reader)
        reader:add("feature.range.address", 8)
        reader:add("feature.range.size", 8)
        reader:add("feature.page_size", 8)
        reader:rest("feature.bitmap")
    end,
}

local function feature(reader)
    reader:add("argsz", 4)
    local flags, range, item = reader:add("feature.flags", 4)
    if not flags then return end
    item:add_le(fields["feature.number"], range)
    local number = flags % 0x10000
    if reader:left() > 0 then
        -- All of it as bytes, and then what they mean.
        reader.tree:add(fields["data"], reader.buffer(reader.offset))
        local decode = FEATURE_DATA[number]
        if decode then decode(reader) end
        reader.offset = reader.buffer:len()
    end
    local name = FEATURES[number] or "feature " .. number
    return name .. (has(flags, 0x40000) and " probe" or "") .. (has(flags, 0x10000) and " get" or "")
        .. (has(flags, 0x20000) and " set" or "")
end

local function client_memory(reader, has_data)
    -- Clients up to QEMU 11.0 answer a write with a header alone.
    if reader:left() == 0 then return end
    local address = reader:add("dma.address", 8)
    local count = reader:add("dma.count", 8)
    if has_data then reader:rest() end
    if count then return hexadecimal(address) .. ", " .. tostring(count) .. " bytes" end
end

local PAYLOADS = {
    [1] = version,
    [2] = function(reader, is_reply)
        if is_reply then return end
        reader:add("argsz", 4)
        reader:add("map.flags", 4)
        reader:add("map.offset", 8)
        local address = reader:add("map.address", 8)
        local size = reader:add("map.size", 8)
        reader:rest()
        if size then return hexadecimal(address) .. ", " .. hexadecimal(size) .. " bytes" end
    end,
    [3] = unmap,
    [4] = function(reader)
        reader:add("argsz", 4)
        reader:add("device.flags", 4)
        reader:add("device.regions", 4)
        reader:add("device.irqs", 4)
        reader:rest()
    end,
    [5] = region_info,
    [6] = region_io_fds,
    [7] = function(reader)
        reader:add("argsz", 4)
        reader:add("irq.flags", 4)
        local index = reader:add("irq.index", 4)
        reader:add("irq.count", 4)
        reader:rest()
        return index and (INTERRUPTS[index] or "index " .. index)
    end,
    [8] = function(reader, is_reply)
        if not is_reply then return set_irqs(reader) end
    end,
    [9] = function(reader, is_reply)
        local text = access(reader)
        if is_reply then reader:rest() end
        return text
    end,
    [10] = function(reader, is_reply)
        local text = access(reader)
        if not is_reply then reader:rest() end
        return text
    end,
    [11] = function(reader, is_reply) return client_memory(reader, is_reply) end,
    [12] = function(reader, is_reply) return client_memory(reader, not is_reply) end,
    [13] = function(reader) reader:rest() end,
    [15] = write_multi,
    [16] = feature,
    [17] = function(reader, is_reply)
        reader:add("argsz", 4)
        reader:add("migration.size", 4)
        if is_reply then reader:rest() end
    end,
    [18] = function(reader, is_reply)
        if is_reply then return end
        reader:add("argsz", 4)
        reader:add("migration.size", 4)
        reader:rest()
    end,
}

-- Requests that wait for their replies, by conversation, direction and ID, each a queue of frames: an ID may be in use
-- twice. Filled on the first pass over the capture, in order; `partners` keeps what was found.
local waiting = {}
local partners = {}

function vfio_user.init()
    waiting = {}
    partners = {}
end

local function match(pinfo, tree, key, is_reply)
    if not pinfo.visited then
        local queue = waiting[key] or {}
        waiting[key] = queue
        if is_reply then
            local request = table.remove(queue, 1)
            if request then
                partners[request.frame] = { frame = pinfo.number }
                partners[pinfo.number] = { frame = request.frame, time = pinfo.rel_ts - request.time }
            end
        else
            table.insert(queue, { frame = pinfo.number, time = pinfo.rel_ts })
        end
    end
    local partner = partners[pinfo.number]
    if not partner then return end
    if is_reply then
        tree:add(fields["reply_to"], partner.frame):set_generated()
        local time = NSTime.new(math.floor(partner.time), math.floor((partner.time % 1) * 1e9))
        tree:add(fields["response_time"], time):set_generated()
    else
        tree:add(fields["reply_in"], partner.frame):set_generated()
    end
end

-- The pseudo-header; returns where the message begins, and what is known of it.
local function pseudo_header(buffer, tree)
    if buffer:len() < 8 or buffer(0, 1):uint() ~= 1 then
        tree:add_proto_expert_info(malformed, "no pseudo-header of this layout")
        return nil
    end
    local bits = buffer(1, 1)
    tree:add(fields["to_client"], bits)
    tree:add(fields["twin"], bits)
    tree:add(fields["fragment"], bits)
    tree:add(fields["lost_fds"], bits)
    tree:add_le(fields["conversation"], buffer(2, 2))
    tree:add_le(fields["fds"], buffer(4, 2))
    local count = buffer(4, 2):le_uint()
    local offset = 8
    for _ = 1, count do
        if buffer:len() - offset < 16 then
            tree:add_proto_expert_info(malformed, "descriptors end too early")
            return nil
        end
        local descriptor = tree:add(vfio_user, buffer(offset, 16), "Descriptor")
        descriptor:add(fields["fd.kind"], buffer(offset, 1))
        descriptor:add(fields["fd.writable"], buffer(offset + 1, 1))
        descriptor:add_le(fields["fd.number"], buffer(offset + 4, 4))
        descriptor:add_le(fields["fd.size"], buffer(offset + 8, 8))
        offset = offset + 16
    end
    return offset, {
        to_client = has(bits:uint(), 1), twin = has(bits:uint(), 2), fragment = has(bits:uint(), 4),
        conversation = buffer(2, 2):le_uint(),
    }
end

function vfio_user.dissector(buffer, pinfo, root)
    pinfo.cols.protocol = "vfio-user"
    local tree = root:add(vfio_user, buffer())
    local offset, about = pseudo_header(buffer, tree)
    if not offset then return end
    pinfo.cols.src = about.to_client and "server" or "client"
    pinfo.cols.dst = about.to_client and "client" or "server"
    if about.fragment then
        pinfo.cols.info = "fragment"
        if buffer:len() > offset then tree:add(fields["data"], buffer(offset)) end
        return
    end
    local header = reader(buffer, offset, tree)
    local id = header:add("id", 2)
    local command = header:add("command", 2)
    local size = header:add("size", 4)
    local flags, range, item = header:add("flags", 4)
    if not header:has(4) then return end
    item:add_le(fields["type"], range)
    item:add_le(fields["no_reply"], range)
    item:add_le(fields["is_error"], range)
    local is_reply = flags % 16 == 1
    local is_error = has(flags, 0x20)
    local errno = buffer(header.offset, 4):le_uint()
    if is_error then header:add("errno", 4) else header:skip(4) end
    local name = COMMANDS[command] or "command " .. command
    local info = name .. (is_reply and " reply" or "")
    if size ~= buffer:reported_len() - offset then
        tree:add_proto_expert_info(malformed, "the stated size is not the packet's")
    end
    if flags % 16 > 1 then
        tree:add_proto_expert_info(malformed, "neither command nor reply")
    elseif not has(flags, 0x10) or is_reply then
        -- A reply goes the other way than what it answers.
        local from_server = about.to_client ~= is_reply
        local key = table.concat({ about.conversation, tostring(from_server), tostring(about.twin), id }, " ")
        match(pinfo, tree, key, is_reply)
    end
    if is_error then
        tree:add_proto_expert_info(refused, "error " .. errno)
        info = info .. " error " .. errno
    else
        local decode = PAYLOADS[command]
        if decode then
            local text = decode(header, is_reply)
            if text then info = info .. ": " .. text end
        else
            tree:add_proto_expert_info(malformed, "no such command")
            header:rest()
        end
    end
    header:finish()
    pinfo.cols.info = info
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, vfio_user)
