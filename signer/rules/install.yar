rule mcpfs_install_download
{
    meta:
        description = "Downloads or runs hidden code when it is installed"
        severity = "error"
        reference = "https://attack.mitre.org/techniques/T1195/002/"
        looks_like = "\"postinstall\": \"curl -s https://… | sh\""
        false_positives = "packages that fetch a prebuilt binary; ship the binary instead"
        fix = "do not publish it; what an installation fetches is not what was reviewed"
        path_include = "package.json,*/package.json"
    strings:
        $pipe = /"(pre|post)?install"\s*:\s*"[^"\n]{0,400}\b(curl|wget|fetch)\b[^"\n]{0,400}"/
        $inline = /"(pre|post)?install"\s*:\s*"[^"\n]{0,200}\bnode\s+(-e|--eval)\s/
        $powershell = /"(pre|post)?install"\s*:\s*"[^"\n]{0,200}\b(powershell|pwsh|certutil|bitsadmin|mshta)\b/
        $decode = /"(pre|post)?install"\s*:\s*"[^"\n]{0,400}\b(base64|atob|xxd)\b/
    condition:
        filesize < 1MB and any of them
}

rule mcpfs_setup_runs_code
{
    meta:
        description = "A setup.py that fetches or starts something while it installs"
        severity = "error"
        reference = "https://attack.mitre.org/techniques/T1195/002/"
        looks_like = "class Install(install): def run(self): os.system('curl …')"
        false_positives = "builds that download sources; ship wheels"
        fix = "do not publish it; take a wheel"
        path_include = "setup.py,*/setup.py"
    strings:
        $setup = /\bsetup\s*\(/
        $hook = "cmdclass"
        $net = /\b(urlopen|urlretrieve|requests\.(get|post)|httpx\.(get|post)|socket\.socket)\s*\(/
        $exec_shell = /\b(os\.system|os\.popen)\s*\(/
        $exec_fetch = /subprocess\.\w+\s*\([^\n]{0,120}\b(curl|wget|powershell)\b/
        $exec_eval = /\bexec\s*\(/
    condition:
        filesize < 1MB and $setup and ($exec_fetch or $net and ($hook or any of ($exec_*)))
}

rule mcpfs_download_and_run
{
    meta:
        description = "Fetches a script and gives it to a shell"
        severity = "error"
        reference = "https://attack.mitre.org/techniques/T1105/"
        looks_like = "execSync('curl -fsSL https://… | bash')"
        false_positives = "installers; a server that is installed already needs none"
        fix = "ship what it would fetch, so that it is reviewed and signed"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $js = /\b(exec|execSync|execAsync|spawn|spawnSync)\s*\([^\n]{0,120}\b(curl|wget)\s[^\n|;'"`]{1,300}\|\s*(sudo\s+)?(ba|z|da)?sh\b/
        $js_args = /\b(spawn|spawnSync|execFile|execFileSync)\s*\([^\n]{0,60}-c['"]\s*,\s*['"][^'"\n]{0,60}\b(curl|wget)\s[^'"\n]{1,300}\|\s*(ba|z|da)?sh\b/
        $py = /\b(os\.system|os\.popen|subprocess\.\w+)\s*\([^\n]{0,120}\b(curl|wget)\s[^\n|;'"]{1,300}\|\s*(sudo\s+)?(ba|z|da)?sh\b/
        $py_exec = /\bexec\s*\(\s*(requests\.get|urlopen|urllib\.request\.urlopen|httpx\.get)\s*\(/
        $js_eval = /\beval\s*\(\s*await\s*\(\s*await\s+fetch\s*\(/
        $sh = /^[ \t]*(sudo\s+)?(curl|wget)\s[^\n|;'"]{1,300}\|\s*(sudo\s+)?(ba|z|da)?sh\b/
        $shebang = /^#!\s*\/(usr\/)?bin\/(env\s+)?(ba|z|da)?sh/
    condition:
        filesize < 8MB and (any of ($js*, $py*) or $shebang at 0 and $sh)
}

rule mcpfs_second_artefact
{
    meta:
        description = "Starts a package by its newest version: what runs then was not reviewed"
        severity = "warning"
        reference = "https://attack.mitre.org/techniques/T1195/"
        looks_like = "spawn('npx', ['-y', 'some-server@latest'])"
        false_positives = "texts of help that show such a command"
        fix = "ship that package inside the artefact, in one version"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $args = /['"](npx|bunx|uvx|pipx|pnpx)(\.cmd)?['"]\s*,\s*\[\s*(['"](-y|--yes|run|dlx)['"]\s*,\s*)?['"][@\w.\/-]{1,100}@latest['"]/
        $shell = /\b(exec|execSync|system|popen|run|Popen)\s*\(\s*\[?['"`](npx|bunx|uvx|pipx run|pnpm dlx|yarn dlx)\s+(-y\s+|--yes\s+)?[@\w.\/-]{1,100}@latest/
    condition:
        filesize < 8MB and any of them
}

rule mcpfs_python_startup_file
{
    meta:
        description = "A .pth file that runs code whenever Python starts"
        severity = "warning"
        reference = "https://attack.mitre.org/techniques/T1546/018/"
        looks_like = "evil.pth with the line: import os; os.system(…)"
        false_positives = "distutils-precedence.pth of setuptools, editable installs, coverage"
        fix = "read its line; a server needs none"
        path_include = "*.pth"
    strings:
        $first = /^import[ \t]/
        $later = /\nimport[ \t]/
    condition:
        filesize < 1MB and ($first at 0 or $later)
}
