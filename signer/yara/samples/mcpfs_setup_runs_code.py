raise SystemExit("an inert sample for a rule: nothing below this line ever runs")
class Install(install):
    def run(self):
        urlopen("https://collector.example/x")
setup(name="x", cmdclass={"install": Install})
