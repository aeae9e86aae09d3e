rule mcpfs_exfil_service
{
    meta:
        description = "Sends to a service that takes anything from anybody: a webhook, a paste, a tunnel, an interaction log"
        severity = "error"
        reference = "https://attack.mitre.org/techniques/T1567/"
        looks_like = "fetch('https://webhook.site/…', {method: 'POST', …})"
        false_positives = "servers for just that service; declare it and waive this for the file"
        fix = "do not publish it unless that service is what the server is for"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $discord = /https?:\/\/(canary\.|ptb\.)?discord(app)?\.com\/api\/(v\d+\/)?webhooks\/\d{6,20}\/[\w-]{20,}/
        $telegram = /https?:\/\/api\.telegram\.org\/bot\d{6,12}:[\w-]{20,}/
        $slack = /https?:\/\/hooks\.slack\.com\/services\/T\w{6,}\/B\w{6,}\/\w{16,}/
        $hook = /https?:\/\/([\w-]{1,64}\.)?(webhook\.site|requestbin\.(com|net)|beeceptor\.com|pipedream\.net|hookbin\.com|requestcatcher\.com|postb\.in)\b/
        $oast = /\b[\w-]{8,64}\.(oast\.(fun|pro|live|site|online|me)|oastify\.com|burpcollaborator\.net|interact\.sh|dnslog\.cn|ceye\.io|canarytokens\.com)\b/
        $tunnel = /https?:\/\/[\w-]{4,64}\.(ngrok\.io|ngrok-free\.app|ngrok\.app|trycloudflare\.com|loca\.lt|serveo\.net)\b/
        $drop = /https?:\/\/(transfer\.sh|file\.io|0x0\.st|api\.anonfiles\.com|store\d?\.gofile\.io|termbin\.com|bashupload\.com)\b/
    condition:
        filesize < 16MB and any of them
}

rule mcpfs_environment_dump
{
    meta:
        description = "Sends the whole environment, where secrets are, over the network"
        severity = "error"
        reference = "https://attack.mitre.org/techniques/T1082/"
        looks_like = "fetch(url, {method: 'POST', body: JSON.stringify(process.env)})"
        false_positives = "crash reporters that send all variables; turn that off"
        fix = "do not publish it"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $js = /(body|data|payload|write|end|send|post)\s*[:=(][^\n;]{0,80}JSON\.stringify\s*\(\s*(\{\s*\.\.\.\s*)?process\.env\s*[,})]/
        $js_request = /JSON\.stringify\s*\(\s*(\{\s*\.\.\.\s*)?process\.env\s*[,})][^\n]{0,200}(fetch|request|axios|\.post|\.write)\s*\(/
        $py = /(json|data|params|body)\s*=\s*[^\n]{0,40}(dict\s*\(\s*os\.environ|os\.environ\.copy\s*\(|json\.dumps\s*\(\s*dict\s*\(\s*os\.environ)/
        $sh = /\b(env|printenv|set)\b[^\n|;]{0,40}\|[^\n;]{0,120}\b(curl|wget|nc|ncat)\b/
        $net_fetch = /\bfetch\s*\(/
        $net_node = /\bhttps?\.(request|get)\s*\(/
        $net_axios = "axios"
        $net_py = /\b(requests|httpx|urllib3?|aiohttp)\b/
    condition:
        filesize < 8MB and ($sh or ($js or $js_request) and ($net_fetch or $net_node or $net_axios) or $py and $net_py)
}

rule mcpfs_raw_address
{
    meta:
        description = "Talks to a public address without a name"
        severity = "warning"
        reference = "https://attack.mitre.org/techniques/T1071/"
        looks_like = "fetch('http://203.0.113.7:8080/x')"
        false_positives = "examples, resolvers such as 1.1.1.1"
        fix = "ask whose address that is"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $url = /https?:\/\/((1[1-9]|[2-9]\d|1[013-9]\d|12[0-68-9]|2[0-4]\d|25[0-5]|[1-9])\.)(\d{1,3}\.){2}\d{1,3}(:\d{1,5})?\//
        $private = /https?:\/\/(172\.(1[6-9]|2\d|3[01])|192\.168|192\.0\.2|198\.51\.100|100\.64|169\.254|1\.2\.3\.4|1\.1\.1\.1|8\.8\.8\.8)/
    condition:
        filesize < 8MB and #url > #private
}

rule mcpfs_metadata_address
{
    meta:
        description = "Asks a cloud's metadata service, which hands out credentials"
        severity = "error"
        reference = "https://attack.mitre.org/techniques/T1552/005/"
        looks_like = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
        false_positives = "SDKs of clouds, which do this on purpose; waive this for the SDK's file"
        fix = "a credential of the recipe is granted by the host; a server should not fetch its own"
        path_include = "*.js,*.mjs,*.cjs,*.jsx,*.ts,*.mts,*.cts,*.tsx,*.py,*.pyw,*.pth,*.sh,*.bash,*/bin/*,bin/*"
    strings:
        $aws = /169\.254\.169\.254\/latest\/(meta-data\/iam|api\/token)/
        $gcp = /(metadata\.google\.internal|169\.254\.169\.254)\/computeMetadata\/v1\/instance\/service-accounts/
        $azure = /169\.254\.169\.254\/metadata\/identity\/oauth2/
    condition:
        filesize < 8MB and any of them
}
