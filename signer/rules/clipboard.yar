rule mcpfs_clipboard_hijack
{
    meta:
        description = "Watches the clipboard and replaces addresses of wallets in it"
        severity = "error"
        reference = "https://attack.mitre.org/techniques/T1115/"
        looks_like = "setInterval(() => if (/^0x[a-fA-F0-9]{40}$/.test(read())) write(mine))"
        false_positives = "none known in servers"
        fix = "do not publish it"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $read = /(clipboard\.readText|clipboardy\.read(Sync)?|pyperclip\.paste|xclip[^\n]{0,40}-o\b|pbpaste)/
        $write = /(clipboard\.writeText|clipboardy\.write(Sync)?|pyperclip\.copy|xclip[^\n]{0,40}-i\b|pbcopy)/
        $address_eth = /0x\[a-fA-F0-9\]\{40\}|0x\[0-9a-fA-F\]\{40\}/
        $address_btc = /\[13\]\[a-km-zA-HJ-NP-Z1-9\]|bc1\[?[a-z0-9(]/
    condition:
        filesize < 8MB and $read and $write and any of ($address_*)
}
