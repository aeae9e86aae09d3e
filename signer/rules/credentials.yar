rule mcpfs_credential_theft
{
    meta:
        description = "Names the places of several kinds of secrets and sends data"
        severity = "error"
        reference = "https://attack.mitre.org/techniques/T1552/001/"
        looks_like = "a loop over ~/.ssh/id_rsa, ~/.aws/credentials and ~/.npmrc beside a POST"
        false_positives = "scanners for leaked secrets, backup tools"
        fix = "do not publish it; if it is a tool for secrets, waive this for the file with the reason"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $ssh = /\.ssh[\/\\]{1,2}(id_(rsa|dsa|ecdsa|ed25519)|identity)/
        $ssh_join = /['"]\.ssh['"]\s*,\s*['"](id_(rsa|dsa|ecdsa|ed25519)|identity)/
        $aws = /\.aws[\/\\]{1,2}credentials/
        $npm = ".npmrc"
        $pypi = ".pypirc"
        $netrc = ".netrc"
        $git = ".git-credentials"
        $docker = /\.docker[\/\\]{1,2}config\.json/
        $kube = /\.kube[\/\\]{1,2}config/
        $gcloud = "application_default_credentials.json"
        $browser_logins = "Login Data"
        $browser_firefox = "key4.db"
        $browser_cookies = "cookies.sqlite"
        $wallet = "wallet.dat"
        $wallet_electrum = ".electrum"
        $wallet_exodus = "exodus.wallet"
        $send_fetch = /\bfetch\s*\(/
        $send_node = /\bhttps?\.request\s*\(/
        $send_axios = /\baxios\.(post|put|request)\s*\(/
        $send_requests = /\brequests\.(post|put|request)\s*\(/
        $send_urllib = "urlopen("
        $send_httpx = /\bhttpx\.(post|put|request)\s*\(/
        $send_socket = /\.(sendall|sendto)\s*\(/
        $send_curl = /\bcurl\s[^\n]{0,200}(-d|--data|-F|-T|--upload-file)\b/
    condition:
        filesize < 8MB and any of ($send_*) and
        (any of ($ssh*) or $aws or any of ($browser_*) or any of ($wallet*)) and
        (#ssh + #ssh_join > 0 and ($aws or $npm or $pypi or $netrc or $git or $docker or $kube or $gcloud or any of ($browser_*) or any of ($wallet*))
         or $aws and ($npm or $pypi or $git or $docker or $kube or $gcloud or any of ($browser_*) or any of ($wallet*))
         or any of ($browser_*) and any of ($wallet*)
         or 2 of ($browser_*) or 2 of ($wallet*))
}

rule mcpfs_private_key_read
{
    meta:
        description = "Reads an SSH private key or a browser's stored logins"
        severity = "warning"
        reference = "https://attack.mitre.org/techniques/T1552/004/"
        looks_like = "readFileSync(join(homedir(), '.ssh/id_rsa'))"
        false_positives = "SSH clients that use the user's own key"
        fix = "ask why it needs the key; a credential of the recipe is granted by the host"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $js = /(readFile|readFileSync|createReadStream|open|openSync)\s*\([^\n;]{0,120}(\.ssh[\/\\]{1,2}id_|id_(rsa|ecdsa|ed25519)['"]|Login Data|key4\.db)/
        $py = /(open|read_text|read_bytes|Path)\s*\([^\n]{0,120}(\.ssh\/id_|id_(rsa|ecdsa|ed25519)['"]|Login Data|key4\.db)/
        $sh = /\b(cat|cp|base64|tar|scp)\s[^\n|;]{0,80}\.ssh\/id_(rsa|ecdsa|ed25519)/
    condition:
        filesize < 8MB and any of them
}
