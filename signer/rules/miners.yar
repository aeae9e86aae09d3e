rule mcpfs_crypto_miner
{
    meta:
        description = "Mines a cryptocurrency"
        severity = "error"
        reference = "https://attack.mitre.org/techniques/T1496/"
        looks_like = "xmrig -o stratum+tcp://pool.example:3333 -u WALLET"
        false_positives = "lists of malicious names in security tools"
        fix = "do not publish it"
    strings:
        $pool = /stratum\+(tcp|ssl|tls):\/\//
        $xmrig = "xmrig" nocase
        $coinhive = /coinhive\.(min\.js|com)|CoinHive\.(Anonymous|User)/
        $algorithm = /\b(cryptonight|randomx|rx\/0)\b/ nocase
        $donate = /--donate-level\b/
    condition:
        filesize < 64MB and ($pool or $coinhive or $xmrig and ($algorithm or $donate))
}
