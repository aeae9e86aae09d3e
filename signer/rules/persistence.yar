rule mcpfs_persistence
{
    meta:
        description = "Makes itself start again: shell files, cron, systemd, autostart"
        severity = "error"
        reference = "https://attack.mitre.org/tactics/TA0003/"
        looks_like = "appendFileSync(join(homedir(), '.bashrc'), …)"
        false_positives = "installers of shell completion"
        fix = "do not publish it: an MCP server is started by its host and by nothing else"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $rc_js = /(appendFile|appendFileSync|writeFile|writeFileSync)\s*\([^\n;]{0,120}\.(bashrc|zshrc|bash_profile|profile|zprofile|zshenv)['"`]/
        $rc_py = /open\s*\([^\n]{0,120}\.(bashrc|zshrc|bash_profile|profile|zprofile|zshenv)['"]\s*\)?\s*,\s*['"]a/
        $rc_sh = />>\s*['"]?(~|\$HOME|\$\{HOME\})\/\.(bashrc|zshrc|bash_profile|profile|zprofile|zshenv)/
        $cron = /(crontab\s+-l[^\n]{0,200}\|\s*crontab\s+-|\|\s*crontab\s+-['"\s\n]|>>?\s*\/etc\/cron\.(d|daily|hourly)\/)/
        $systemd_path = /\.config\/systemd\/user/
        $systemd_enable = /systemctl\s+--user\s+(enable|start|daemon-reload)/
        $autostart_path = /\.config\/autostart/
        $autostart_entry = "[Desktop Entry]"
        $launchd_path = /Library\/LaunchAgents/
        $launchd_load = /launchctl\s+(load|bootstrap)/
        $run_key = /CurrentVersion\\{1,2}Run['"\\]/
    condition:
        filesize < 8MB and
        (any of ($rc_*) or $cron or $run_key or
         $systemd_path and $systemd_enable or
         $autostart_path and $autostart_entry or
         $launchd_path and $launchd_load)
}

rule mcpfs_self_propagation
{
    meta:
        description = "Takes a registry token and publishes packages: a worm"
        severity = "error"
        reference = "https://attack.mitre.org/techniques/T1195/001/"
        looks_like = "reads _authToken from .npmrc, lists a maintainer's packages and runs npm publish"
        false_positives = "release tools, which a server does not carry"
        fix = "do not publish it"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $token = "_authToken"
        $npmrc = ".npmrc"
        $list = /registry\.npmjs\.org\/-\/(v1\/search\?text=maintainer|whoami)/
        $publish = /npm\s+publish\b|['"]npm['"]\s*,\s*\[\s*['"]publish['"]/
        $scan = /trufflehog\s+filesystem/
        $leak = /api\.github\.com\/user\/repos/
    condition:
        filesize < 16MB and ($token and $publish and ($npmrc or $list) or $scan and ($leak or $publish))
}

rule mcpfs_removes_itself
{
    meta:
        description = "Removes its own file after it ran"
        severity = "warning"
        reference = "https://attack.mitre.org/techniques/T1070/004/"
        looks_like = "fs.unlinkSync(__filename)"
        false_positives = "programs that unpack themselves"
        fix = "ask what nobody should see afterwards"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $js = /\b(unlink|unlinkSync|rm|rmSync)\s*\(\s*__filename\b/
        $py = /\bos\.(remove|unlink)\s*\(\s*(__file__|sys\.argv\[0\])\s*\)/
        $sh = /\brm\s+(-\w+\s+)*(--\s+)?["']?\$(0|\{0\}|BASH_SOURCE)\b/
    condition:
        filesize < 8MB and any of them
}
