"""Starts Linux guests under QEMU with devices that Outboard serves, and lets scenarios drive them.

Read in this order: `lab` (what a scenario sees), `guest` and `backend` (the two programs it drives), `storage` (what
the host checks in an image). `debian`, `kernel`, `initramfs` and `machine` provide what these need and cache it;
`cli` is the command line of `qemu/run`.
"""
