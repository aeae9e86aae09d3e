rule mcpfs_decoded_eval
{
    meta:
        description = "Runs code that it decodes first, so that nobody reads it"
        severity = "error"
        reference = "https://attack.mitre.org/techniques/T1027/"
        looks_like = "eval(atob('…')), exec(base64.b64decode('…'))"
        false_positives = "none known in servers; packers do it"
        fix = "do not publish it: ship the code that runs"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $js_atob = /\b(eval|new\s+Function|Function|setTimeout)\s*\(\s*(globalThis\.|window\.)?atob\s*\(/
        $js_buffer = /\b(eval|new\s+Function|Function|runInNewContext|runInThisContext)\s*\(\s*Buffer\.from\s*\([^\n]{1,20000}['"](base64|hex)['"]\s*\)/
        $js_escape = /\b(eval|new\s+Function)\s*\(\s*(unescape|decodeURIComponent|String\.fromCharCode)\s*\(/
        $py_base64 = /\bexec\s*\(\s*(compile\s*\(\s*)?(base64\.)?(b64decode|b32decode|b85decode|a85decode|decodebytes)\s*\(/
        $py_zlib = /\bexec\s*\(\s*(compile\s*\(\s*)?(zlib|bz2|lzma|gzip)\.decompress\s*\(/
        $py_marshal = /\bexec\s*\(\s*marshal\.loads\s*\(/
        $py_hex = /\bexec\s*\(\s*(bytes\.fromhex|bytearray\.fromhex|codecs\.decode|binascii\.unhexlify)\s*\(/
        $py_import = /\bexec\s*\(\s*__import__\s*\(\s*['"](base64|zlib|codecs|marshal|urllib)/
        $sh_base64 = /base64\s+(-d|-D|--decode)[^\n|;]{0,80}\|\s*(sudo\s+)?(ba|z|da)?sh\b/
    condition:
        filesize < 16MB and any of them
}

rule mcpfs_encoded_blob_eval
{
    meta:
        description = "Holds a long encoded text beside code that runs made code"
        severity = "warning"
        reference = "https://attack.mitre.org/techniques/T1027/013/"
        looks_like = "const p = '<thousands of hex digits>'; … new Function(decode(p))"
        false_positives = "bundles with embedded WebAssembly or images"
        fix = "ask what the text decodes to"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $hex = /['"`](\\x[0-9a-fA-F]{2}){400,20000}/
        $hex_text = /['"`][0-9a-f]{2000,60000}['"`]/
        $base64 = /['"`][A-Za-z0-9+\/]{3000,60000}={0,2}['"`]/
        $js = /\b(eval|new\s+Function)\s*\(\s*\w+\s*\(/
        $py = /\bexec\s*\(\s*\w+(\.\w+)*\s*\(/
    condition:
        filesize < 8MB and any of ($hex*, $base64) and ($js or $py)
}

rule mcpfs_mangled_names
{
    meta:
        description = "Was put through an obfuscator, so that no reviewer can read it"
        severity = "warning"
        reference = "https://attack.mitre.org/techniques/T1027/"
        looks_like = "function _0x3a1f(_0x12ab34,_0x56cd78){…} while(!![]){…}"
        false_positives = "commercial packages that protect their code"
        fix = "ask for code that can be read"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $name = /\b_0x[0-9a-f]{4,6}\b/
        $loop = "while(!![])"
        $shift = /\['?push'?\]?\(?_0x[0-9a-f]{4,6}\['?shift'?\]?/
        $call = /parseInt\(_0x[0-9a-f]{4,6}\(0x/
    condition:
        filesize < 8MB and #name > 40 and any of ($loop, $shift, $call)
}

rule mcpfs_direction_control
{
    meta:
        description = "Has characters that turn the direction of text, so that code reads otherwise than it runs"
        severity = "warning"
        reference = "https://trojansource.codes/"
        looks_like = "a right-to-left override inside a comment"
        false_positives = "translations and libraries for right-to-left scripts"
        fix = "look at the line in an editor that shows them"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $override = { E2 80 (AD | AE) }
        $isolate = { E2 81 (A6 | A7 | A8) }
    condition:
        filesize < 4MB and any of them
}
